"""Attention over rows with branches: which of transformers' implementations, and one of our own for CPUs.

On a CPU a dense mask costs the full T x T pairs of a packed row, of which most are masked: at K = 9 that is as much
time as all linear layers together. The implementation here attends twice instead: the trunks to themselves, and all
branches, gathered into one batch, to their trunk and themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from lit_instruct.fast.shared_prefix import TRUNK, PackedRows, block_mask, dense_mask
from lit_instruct.fast.short_attention import NAME as SHORT_ATTENTION
from lit_instruct.fast.short_attention import short_attention

NAME = "lit_instruct_branches"
"""The implementation's name in transformers' registry."""
GATHER_FACTOR, GATHER_PAIRS = 1.5, 20_000
"""Attending twice costs so many times as much a pair of tokens, and as much as so many pairs beside (measured)."""
FLEX_WIDTH = 1024
"""Tokens of a row from which flex_attention's skipping of 128 x 128 blocks has something to skip."""


class BranchLayout(NamedTuple):
    """Where the branches of packed rows are."""

    trunk: int
    """Columns of the longest trunk."""
    row: Tensor
    """(N,) long, the row of each branch."""
    place: Tensor
    """(N, R) long, the branch's tokens in the flattened rows; padded with its last one."""
    real: Tensor
    """(N, R) bool, True on real tokens."""
    mask: Tensor
    """(N, 1, R, trunk + R) bool, which tokens of its trunk and of itself each token of a branch sees."""


def computed_pairs(rows: int, width: int, trunk: int, branches: int, longest: int) -> float:
    """Returns the pairs of tokens that attention over packed rows computes, masked ones included.

    Args:
        rows: number of rows.
        width: tokens of the widest.
        trunk: tokens of the longest trunk.
        branches: number of branches in all rows together.
        longest: tokens of the longest branch.
    """
    return min(rows * width**2, _gathered_pairs(rows, trunk, branches, longest))


def _gathered_pairs(rows: int, trunk: int, branches: int, longest: int) -> float:
    return GATHER_FACTOR * (rows * trunk**2 + branches * longest * (trunk + longest)) + GATHER_PAIRS


def choose_attention(network: PreTrainedModel, device: torch.device, width: int) -> None:
    """Gives a model the fastest attention for packed rows that it supports.

    Args:
        network: that attends by sdpa, or as `short_attention` chooses; any other is left as it is.
        device: where it runs.
        width: tokens of the widest row to be expected.
    """
    config = network.config
    if config._attn_implementation not in ("sdpa", SHORT_ATTENTION):
        return
    if device.type == "cpu":
        network.set_attn_implementation(NAME)
    elif device.type == "cuda" and width >= FLEX_WIDTH and _can_flex(network):
        network.set_attn_implementation("flex_attention")


def _can_flex(network: PreTrainedModel) -> bool:
    dropout = max(float(getattr(network.config, name, 0) or 0) for name in ("attention_dropout", "attn_pdrop"))
    return bool(getattr(network, "_supports_flex_attn", False)) and dropout == 0


def attention_mask(packed: PackedRows, implementation: str, dtype: torch.dtype) -> Any:
    """Returns the mask of packed rows in the form that an attention implementation takes.

    Args:
        packed: rows, on the model's device.
        implementation: name of transformers' attention implementation.
        dtype: of the model's activations.
    """
    if implementation == "flex_attention":
        return block_mask(packed.branch)
    seen = dense_mask(packed.branch)
    if implementation == "eager":  # adds the mask to the scores, whatever its type
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)
    if implementation == NAME:
        # Models hand the mask on to every layer as it is; one that makes another of it gets the dense attention.
        seen.branches = _layout(packed.branch)  # type: ignore[attr-defined]
    return seen


def _layout(branch: Tensor) -> BranchLayout | None:
    """Where the branches are, or None where the dense mask is cheaper."""
    width = branch.shape[1]
    owner = [
        (row, number) for row, last in enumerate(branch.amax(dim=1).tolist()) for number in range(1, int(last) + 1)
    ]
    trunks = (branch == TRUNK).sum(dim=1)
    row = torch.tensor([row for row, _ in owner], device=branch.device)
    number = torch.tensor([number for _, number in owner], device=branch.device)
    member = branch[row] == number[:, None]
    length, first = member.sum(dim=1), member.int().argmax(dim=1)
    trunk, longest = int(trunks.max()), int(length.max())
    if len(branch) * width**2 <= _gathered_pairs(len(branch), trunk, len(owner), longest):
        return None
    step = torch.arange(longest, device=branch.device)
    place = (row * width + first)[:, None] + torch.minimum(step, length[:, None] - 1)
    to_trunk = (torch.arange(trunk, device=branch.device) < trunks[row, None])[:, None].expand(-1, longest, -1)
    to_self = (step[:, None] >= step)[None].expand(len(owner), -1, -1)
    mask = torch.cat([to_trunk, to_self], dim=2)[:, None]
    return BranchLayout(trunk, row, place, step < length[:, None], mask)


def branch_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attends as `short_attention` does, and over branches by gathering them.

    Args:
        module: the attention layer.
        query: (B, heads, T, D).
        key: (B, key heads, T, D).
        value: the same.
        attention_mask: of `attention_mask`, or any other.
        dropout: on the attention weights.
        scaling: of the scores; None is 1 / sqrt(D).
        kwargs: whatever else transformers hands on.
    """
    layout: BranchLayout | None = getattr(attention_mask, "branches", None)
    if layout is None or kwargs.get("position_bias") is not None:
        return short_attention(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    trunk = slice(layout.trunk)
    above = scaled_dot_product_attention(
        query[:, :, trunk], key[:, :, trunk], value[:, :, trunk], is_causal=True, **options
    )
    keys, values = (
        torch.cat([part[:, :, trunk].index_select(0, layout.row), _gather(part, layout.place)], dim=2)
        for part in (key, value)
    )
    own = scaled_dot_product_attention(_gather(query, layout.place), keys, values, attn_mask=layout.mask, **options)
    return _put_back(above, own, layout, query.shape[2]), None


def _gather(part: Tensor, place: Tensor) -> Tensor:
    """(B, heads, T, D) -> (N, heads, R, D)."""
    flat = part.transpose(1, 2).flatten(0, 1)
    return flat.index_select(0, place.flatten()).unflatten(0, place.shape).transpose(1, 2)


def _put_back(trunks: Tensor, branches: Tensor, layout: BranchLayout, width: int) -> Tensor:
    """(B, heads, trunk, D) and (N, heads, R, D) -> (B, T, heads, D); what padding computed is left out."""
    rows = pad(trunks.transpose(1, 2), (0, 0, 0, 0, 0, width - trunks.shape[2]))
    flat = rows.flatten(0, 1).index_copy(0, layout.place[layout.real], branches.transpose(1, 2)[layout.real])
    return flat.unflatten(0, rows.shape[:2])


AttentionInterface.register(NAME, branch_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
