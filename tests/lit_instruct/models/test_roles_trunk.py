"""The trunk cache gives the outputs and gradients of the whole forward, whatever the padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lit_instruct.batches import left_pad, right_pad
from lit_instruct.models.lora import LoraOptions
from tests.lit_instruct.models.tiny_roles import (
    PROMPTS,
    Folders,
    ids_and_masks,
    make_roles,
    policy_loss,
    value_loss,
)


@pytest.mark.parametrize("role", ["policy", "reference", "value", "reward"])
def test_side_of_the_padding_does_not_matter(folders: Folders, role: Any) -> None:
    roles = make_roles(folders)
    left, left_mask = left_pad(PROMPTS, 0)
    right, right_mask = right_pad(PROMPTS, 0)
    wide, wide_mask = nn.functional.pad(left, (3, 0)), nn.functional.pad(left_mask, (3, 0))
    with torch.no_grad():
        expected = roles.hidden(role, right, right_mask)[right_mask]
        for ids, mask in ((left, left_mask), (wide, wide_mask)):
            hidden = roles.hidden(role, ids, mask)
            assert hidden.isfinite().all()
            torch.testing.assert_close(hidden[mask], expected, atol=1e-5, rtol=1e-5)
            ids = ids.where(mask, 99)  # what padding holds must not matter
            torch.testing.assert_close(roles.hidden(role, ids, mask)[mask], hidden[mask])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trunk_equals_the_full_forward(folders: Folders, dtype: torch.dtype) -> None:
    ids, mask, *_ = ids_and_masks()
    roles = make_roles(folders, dtype=dtype)
    assert roles.trunk_layers == 1  # of 4 layers, the policy adapts the upper 3
    with torch.no_grad():
        _, trunk = roles.hidden_with_trunk("reference", ids, mask)
        for role in ("reference", "policy", "value", "reward"):
            assert torch.equal(roles.hidden(role, ids, mask, trunk), roles.hidden(role, ids, mask))
    roles.check_trunk(ids.device)
    assert roles.trunk_layers == 1


def test_trunk_gives_the_same_gradients(folders: Folders) -> None:
    ids, mask, *_ = ids_and_masks()
    roles = make_roles(folders)
    with torch.no_grad():
        _, trunk = roles.hidden_with_trunk("reference", ids, mask)
    for role, loss in (("policy", policy_loss), ("value", value_loss)):
        parameters = roles.parameters_of(role)
        with_trunk = torch.autograd.grad(loss(roles, trunk), parameters)
        without = torch.autograd.grad(loss(roles), parameters)
        assert any((g != 0).any() for g in without)
        for one, other in zip(with_trunk, without, strict=True):
            torch.testing.assert_close(one, other)


def test_no_trunk_where_every_layer_is_adapted_or_nothing_is_shared(folders: Folders) -> None:
    ids, mask, *_ = ids_and_masks()
    for lora in (LoraOptions(r=4, alpha=8.0), None):
        roles = make_roles(folders, lora)
        assert roles.trunk_layers == 0
        with torch.no_grad():
            hidden, trunk = roles.hidden_with_trunk("policy", ids, mask)
            assert trunk is None
            assert torch.equal(hidden, roles.hidden("policy", ids, mask))


def test_trunk_is_given_up_where_it_is_not_exact(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = make_roles(folders)
    layer = roles.language_model("policy").model.layers[3]
    monkeypatch.setattr(layer, "forward", lambda hidden, **_: hidden + torch.rand(()))
    roles.check_trunk(torch.device("cpu"))
    assert roles.trunk_layers == 0
