"""A role with its adapter merged computes the same, and the base is restored bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_instruct.models.assemble import ppo_roles
from lit_instruct.models.loading import find_source
from tests.lit_instruct.models.tiny_roles import (
    Folders,
    changed,
    copied_state,
    ids_and_masks,
    make_roles,
    plain_hidden,
    train,
)
from tests.lit_instruct.rollouts.stage_folders import SFT_LORA


@pytest.mark.parametrize("role", ["policy", "reference", "value", "reward"])
def test_merged_equals_the_adapter_and_restores_the_base(folders: Folders, role: Any) -> None:
    ids, mask, *_ = ids_and_masks()
    roles = make_roles(folders)
    train(roles, "policy")
    before = copied_state(roles)
    with torch.no_grad():
        expected = roles.hidden(role, ids, mask)
        with roles.merged(role) as model:
            merged = plain_hidden(model, ids, mask)
            weight = model.model.layers[3].self_attn.q_proj.get_base_layer().weight
            name = "layers.3.self_attn.q_proj.base_layer.weight"
            assert not torch.equal(weight, next(v for k, v in before.items() if k.endswith(name)))
        torch.testing.assert_close(merged[mask], expected[mask], atol=1e-5, rtol=1e-5)
        assert not changed(before, roles)
        assert torch.equal(roles.hidden(role, ids, mask), expected)
        with pytest.raises(KeyError), roles.merged(role):
            raise KeyError
        assert not changed(before, roles)
        assert torch.equal(roles.hidden(role, ids, mask), expected)


def test_merged_restores_a_bfloat16_base(folders: Folders) -> None:
    ids, mask, *_ = ids_and_masks()
    roles = make_roles(folders, dtype=torch.bfloat16)
    before = copied_state(roles)
    with torch.no_grad():
        expected = roles.hidden("policy", ids, mask)
        with roles.merged("policy") as model:
            assert model.dtype == torch.bfloat16
            merged = plain_hidden(model, ids, mask)
    torch.testing.assert_close(merged[mask], expected[mask], atol=0.15, rtol=0.05)
    assert not changed(before, roles)


def test_merged_without_adapter_is_the_network(folders: Folders) -> None:
    ids, mask, *_ = ids_and_masks()
    roles = ppo_roles(find_source(str(folders.base)), [], SFT_LORA, torch.float32)
    train(roles, "policy")
    expected = plain_hidden(AutoModelForCausalLM.from_pretrained(str(folders.base)), ids, mask)
    with roles.merged("reference") as model:
        assert torch.equal(plain_hidden(model, ids, mask), expected)
    full = make_roles(folders, lora=None)
    with full.merged("policy") as model:
        assert model is full.language_model("policy")
