"""Attention over rows that share a prefix: the choice among transformers' implementations, and our own for CPUs.

On a CPU a dense mask costs the full T x T pairs of a packed row, most of them masked: at K = 9 that takes as long as
all linear layers together. The implementation here attends twice instead: each prefix to itself, and all suffixes,
gathered into one batch, to their prefix and themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from lit_instruct.fast.shared_prefix import PREFIX, PackedRows, block_mask, dense_mask
from lit_instruct.fast.short_attention import NAME as SHORT_ATTENTION
from lit_instruct.fast.short_attention import short_attention

NAME = "lit_instruct_prefix"
"""The implementation's name in transformers' registry."""
GATHER_FACTOR, GATHER_PAIRS = 1.5, 20_000
"""Attending twice costs this factor per pair of tokens, plus as much as this many pairs (measured)."""
FLEX_WIDTH = 1024
"""Row length in tokens from which flex_attention has 128 x 128 blocks to skip."""


class SuffixLayout(NamedTuple):
    """Where the suffixes of packed rows are."""

    prefix: int
    """Columns of the longest prefix."""
    row: Tensor
    """(N,) long, the row of each suffix."""
    place: Tensor
    """(N, R) long, indices of the suffix's tokens in the flattened rows; padded with the last one."""
    real: Tensor
    """(N, R) bool, True on real tokens."""
    mask: Tensor
    """(N, 1, R, prefix + R) bool, which tokens of its prefix and of itself each token of a suffix sees."""


def computed_pairs(rows: int, width: int, prefix: int, suffixes: int, longest: int) -> float:
    """Returns the pairs of tokens that attention over packed rows computes, masked ones included.

    Args:
        rows: number of rows.
        width: tokens of the widest.
        prefix: tokens of the longest prefix.
        suffixes: number of suffixes in all rows together.
        longest: tokens of the longest suffix.
    """
    return min(rows * width**2, _gathered_pairs(rows, prefix, suffixes, longest))


def _gathered_pairs(rows: int, prefix: int, suffixes: int, longest: int) -> float:
    return GATHER_FACTOR * (rows * prefix**2 + suffixes * longest * (prefix + longest)) + GATHER_PAIRS


def choose_attention(network: PreTrainedModel, device: torch.device, width: int) -> None:
    """Gives a model the fastest attention for packed rows that it supports.

    Args:
        network: one that uses sdpa or `short_attention`; any other is left unchanged.
        device: where it runs.
        width: tokens of the widest row to expect.
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
        return block_mask(packed.segment)
    seen = dense_mask(packed.segment)
    if implementation == "eager":  # adds the mask to the scores, whatever its dtype
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)
    if implementation == NAME:
        # Models pass the mask unchanged to every layer; one that replaces it gets dense attention.
        seen.suffixes = _layout(packed.segment)  # type: ignore[attr-defined]
    return seen


def _layout(segment: Tensor) -> SuffixLayout | None:
    """Returns where the suffixes are, or None if the dense mask is cheaper."""
    width = segment.shape[1]
    counts = segment.amax(dim=1).tolist()
    owner = [(row, number) for row, count in enumerate(counts) for number in range(1, count + 1)]
    prefixes = (segment == PREFIX).sum(dim=1)
    row = torch.tensor([row for row, _ in owner], device=segment.device)
    number = torch.tensor([number for _, number in owner], device=segment.device)
    member = segment[row] == number[:, None]
    length, first = member.sum(dim=1), member.int().argmax(dim=1)
    prefix, longest = int(prefixes.max()), int(length.max())
    if len(segment) * width**2 <= _gathered_pairs(len(segment), prefix, len(owner), longest):
        return None
    step = torch.arange(longest, device=segment.device)
    place = (row * width + first)[:, None] + torch.minimum(step, length[:, None] - 1)
    to_prefix = (torch.arange(prefix, device=segment.device) < prefixes[row, None])[:, None].expand(-1, longest, -1)
    to_self = (step[:, None] >= step)[None].expand(len(owner), -1, -1)
    mask = torch.cat([to_prefix, to_self], dim=2)[:, None]
    return SuffixLayout(prefix, row, place, step < length[:, None], mask)


def prefix_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attends as `short_attention` does (same arguments), but gathers the suffixes that `attention_mask` knows of."""
    layout: SuffixLayout | None = getattr(attention_mask, "suffixes", None)
    if layout is None or kwargs.get("position_bias") is not None:
        return short_attention(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    prefix = slice(layout.prefix)
    first_query, first_key, first_value = (part[:, :, prefix] for part in (query, key, value))
    above = scaled_dot_product_attention(first_query, first_key, first_value, is_causal=True, **options)
    keys, values = (
        torch.cat([part[:, :, prefix].index_select(0, layout.row), _gather(part, layout.place)], dim=2)
        for part in (key, value)
    )
    own = scaled_dot_product_attention(_gather(query, layout.place), keys, values, attn_mask=layout.mask, **options)
    return _put_back(above, own, layout, query.shape[2]), None


def _gather(part: Tensor, place: Tensor) -> Tensor:
    """(B, heads, T, D) -> (N, heads, R, D)."""
    flat = part.transpose(1, 2).flatten(0, 1)
    return flat.index_select(0, place.flatten()).unflatten(0, place.shape).transpose(1, 2)


def _put_back(prefixes: Tensor, suffixes: Tensor, layout: SuffixLayout, width: int) -> Tensor:
    """(B, heads, prefix, D) and (N, heads, R, D) -> (B, T, heads, D); results on padding are dropped."""
    rows = pad(prefixes.transpose(1, 2), (0, 0, 0, 0, 0, width - prefixes.shape[2]))
    flat = rows.flatten(0, 1).index_copy(0, layout.place[layout.real], suffixes.transpose(1, 2)[layout.real])
    return flat.unflatten(0, rows.shape[:2])


AttentionInterface.register(NAME, prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
