"""Attention over short rows on a CPU, as two batched products.

In bfloat16, PyTorch's fused attention for CPUs spends most of a short row's backward pass on moving memory. Up to
SHORT tokens the scores of a layer fit into memory, and two products with a softmax between them are faster.
`python -m benchmarks.attention` measures both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "lit_instruct_short"
SHORT = 256
"""Longest row in tokens; beyond it, storing the scores costs more than it saves."""

VECTOR = 32
"""Number of bfloat16 values in the widest vector register of a CPU."""


def choose_short_attention(network: PreTrainedModel) -> None:
    """Lets a transformers model that uses sdpa use `short_attention`; any other is left unchanged."""
    if network.config._attn_implementation == "sdpa":
        network.set_attn_implementation(NAME)


def short_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attends like transformers' sdpa, by softmax(Q K' scaling) V if that is faster: (B, T, heads, D), no weights.

    The choice depends only on shapes, dtype and device, so that passes with and without gradients agree.

    Args:
        module: the attention layer.
        query: (B, heads, T, D).
        key: (B, key heads, T, D).
        value: (B, key heads, T, D).
        attention_mask: (B, 1, T, T) bool, True is seen; None is causal if the layer is.
        dropout: on the attention weights.
        scaling: of the scores; None is 1 / sqrt(D).
        kwargs: anything else that transformers passes.
    """
    if dropout or kwargs.get("position_bias") is not None or not _is_short(query, key, attention_mask):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if attention_mask is None and getattr(module, "is_causal", True):
        attention_mask = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query.device.type, enabled=False):  # autocast would compute the weights in float32
        return attend_by_products(query * scale, key, value, attention_mask).transpose(1, 2), None


def _is_short(query: Tensor, key: Tensor, mask: Tensor | None) -> bool:
    narrow = query.device.type == "cpu" and query.dtype == key.dtype == torch.bfloat16
    return narrow and 1 < query.shape[2] == key.shape[2] <= SHORT and (mask is None or mask.dtype == torch.bool)


def attend_by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Returns softmax(Q K') V by two products: (B, heads, T, D), (B, key heads, T, D) twice -> (B, heads, T, D).

    Keys are padded to a multiple of VECTOR: softmax is slow on a remainder.
    """
    rows, heads, width, _ = query.shape
    extra = -width % VECTOR
    if extra:
        key, value = pad(key, (0, 0, 0, extra)), pad(value, (0, 0, 0, extra))
        mask = pad(query.new_ones(1, 1, width, width, dtype=torch.bool) if mask is None else mask, (0, extra))
    grouped = (rows, key.shape[1], heads // key.shape[1] * width)  # heads that share a key are adjacent
    scores = torch.matmul(query.reshape(*grouped, -1), key.transpose(2, 3)).view(rows, heads, width, -1)
    if mask is not None:  # added: filling would take another pass over the scores in backward
        scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1).view(*grouped, -1)
    return torch.matmul(weights, value).view(query.shape)


AttentionInterface.register(NAME, short_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
