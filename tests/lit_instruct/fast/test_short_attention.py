"""Attention by two products equals sdpa where it applies, and leaves everything else to sdpa."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lit_instruct.fast.short_attention import NAME, SHORT, short_attention
from lit_instruct.models.loading import find_source, load_causal_lm
from tests.tiny import tiny_llama

LAYER: Any = SimpleNamespace(is_causal=True, num_key_value_groups=2)


def projections(width: int, dtype: torch.dtype = torch.bfloat16, heads: int = 4) -> list[Tensor]:
    """Query, key and value of two rows, as a layer passes them: (2, heads, T, 8)."""
    torch.manual_seed(0)
    drawn = [torch.randn(2, width, count, 8).to(dtype).transpose(1, 2) for count in (heads, 2, 2)]
    return [part.requires_grad_() for part in drawn]


def left_padded(width: int) -> Tensor:
    """(2, 1, T, T) bool, causal, with two tokens of padding before the second row."""
    mask = torch.ones(width, width, dtype=torch.bool).tril().repeat(2, 1, 1, 1)
    mask[1, :, :, :2] = False
    return mask


def exact(parts: list[Tensor], mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """The same in float64 by sdpa: output, and gradients of the sum of its squares."""
    query, key, value = (part.detach().double().requires_grad_() for part in parts)
    options: Any = {"is_causal": True} if mask is None else {"attn_mask": mask}
    y = scaled_dot_product_attention(query, key, value, enable_gqa=True, **options).transpose(1, 2)
    return y.detach(), list(torch.autograd.grad(y.square().sum(), (query, key, value)))


@pytest.mark.parametrize("mask", [None, left_padded(9)])
@pytest.mark.parametrize("autocast", [False, True])
def test_output_and_gradients_are_those_of_sdpa(mask: Tensor | None, autocast: bool) -> None:
    parts = projections(9)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, nothing = short_attention(LAYER, *parts, mask)
    assert nothing is None
    assert y.dtype == torch.bfloat16
    seen = torch.ones(2, 9, dtype=torch.bool) if mask is None else mask[:, 0].any(dim=-1)
    expected, gradients = exact(parts, mask)
    torch.testing.assert_close(y[seen].double(), expected[seen], atol=0.03, rtol=0.03)
    assert y.isfinite().all()
    if mask is None:
        for found, gradient in zip(torch.autograd.grad(y.square().sum(), parts), gradients, strict=True):
            assert (found.double() - gradient).norm() < 0.03 * gradient.norm()


def test_by_hand() -> None:
    # Scores 0 everywhere: the second token sees the mean of both values, the first only its own.
    query, key = torch.zeros(1, 1, 2, 1, dtype=torch.bfloat16), torch.ones(1, 1, 2, 1, dtype=torch.bfloat16)
    value = torch.tensor([2.0, 4.0], dtype=torch.bfloat16).view(1, 1, 2, 1)
    assert short_attention(LAYER, query, key, value, None)[0].flatten().tolist() == [2.0, 3.0]


def test_scaling_is_the_callers() -> None:
    parts = projections(5)
    expected = scaled_dot_product_attention(*(p.double() for p in parts), is_causal=True, scale=1.0, enable_gqa=True)
    found, _ = short_attention(LAYER, *parts, None, scaling=1.0)
    torch.testing.assert_close(found.double(), expected.transpose(1, 2), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("parts", "dropout"),
    [
        (projections(SHORT + 1), 0.0),
        (projections(1), 0.0),
        (projections(7, torch.float32), 0.0),
        (projections(7), 0.1),
    ],
    ids=["long", "one query", "float32", "dropout"],
)
def test_everything_else_is_sdpas_to_the_bit(parts: list[Tensor], dropout: float) -> None:
    outputs = []
    for attention in (short_attention, sdpa_attention_forward):
        torch.manual_seed(0)
        outputs.append(attention(LAYER, *parts, None, dropout=dropout)[0])
    assert torch.equal(*outputs)


def test_a_loaded_model_attends_so_and_computes_what_it_did(tmp_path: Path) -> None:
    tiny_llama(tmp_path)
    model = load_causal_lm(find_source(str(tmp_path)), torch.bfloat16)
    assert model.config._attn_implementation == NAME
    ids = torch.arange(4, 30).view(2, 13)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    found = model(ids, attention_mask=mask).logits
    model.set_attn_implementation("sdpa")
    expected = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=0.02, rtol=0.02)
    assert not torch.equal(found[mask.bool()], expected[mask.bool()])  # it was not sdpa
