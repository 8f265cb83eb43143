"""Tokens from logits: the inverse of the cumulative distribution at one uniform number per token.

This is several times faster than `multinomial` over a large vocabulary, and each row's numbers come from its own
generator, so that a sample depends only on its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

BLOCK = 256
"""Tokens per block: cumulative sums run over the sums of blocks first, then inside one block."""
NUCLEUS = 1024
"""Number of most probable tokens sorted first for a nucleus; more follow for a flatter distribution."""


class Shape(Protocol):
    """The options that shape a distribution, part of `generate.SamplingOptions`."""

    temperature: float
    top_p: float
    top_k: int


def uniforms(keys: Sequence[tuple[int, ...]], count: int) -> Tensor:
    """Returns (B, count) float64 uniform numbers in [0, 1), each row from a generator seeded with its key.

    A key is a tuple of numbers, such as (seed, iteration, prompt number).
    """
    generators = [torch.Generator().manual_seed(seed_of(key)) for key in keys]
    return torch.stack([torch.rand(count, generator=one, dtype=torch.float64) for one in generators])


def seed_of(key: tuple[int, ...]) -> int:
    """Returns the seed that a key stands for, in [0, 2^63)."""
    seed = 0
    for part in key:  # a fixed mix; hash() may change between versions
        seed = (seed * 1_000_003 + part + 0x9E3779B9) % (2**63)
    return seed


def sample_tokens(logits: Tensor, draws: Tensor, shape: Shape) -> Tensor:
    """Returns one token per row, the first whose cumulative probability exceeds the row's draw: (B,) long.

    Args:
        logits: (B, V), of any floating type.
        draws: (B,) float64 in [0, 1).
        shape: temperature, top-p and top-k.
    """
    if shape.top_k == 1:
        return logits.argmax(dim=-1)
    if not shape.top_k and shape.top_p == 1:
        return _pick(_relative_probabilities(logits, shape.temperature), draws)
    likely, tokens = _most_probable(logits, shape)
    return tokens.gather(1, _pick(likely, draws)[:, None]).squeeze(1)


def _relative_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Returns exp((logits - max) / temperature), (B, V) float32: a softmax without its last pass, the division."""
    logits = logits.float()
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    return (shifted if temperature == 1 else shifted.div_(temperature)).exp_()


def _most_probable(logits: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Returns relative probabilities, 0 beyond what top-k and top-p keep, and their tokens: (B, n), largest first."""
    size = logits.shape[-1]
    probabilities = _relative_probabilities(logits, shape.temperature)
    if shape.top_k:
        likely, tokens = probabilities.topk(min(shape.top_k, size), dim=-1)
        total = likely.sum(dim=-1, keepdim=True, dtype=torch.float64)  # top-p is a share of what top-k keeps
    else:
        total = probabilities.sum(dim=-1, keepdim=True, dtype=torch.float64)
        likely, tokens = _until(probabilities, shape.top_p * total)
    if shape.top_p < 1:
        before = likely.double().cumsum(dim=-1) - likely
        likely[before >= shape.top_p * total] = 0
    return likely, tokens


def _until(probabilities: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Returns enough of the most probable tokens to hold `mass` in every row; on a CPU sorting all takes far longer.

    A GPU sorts all: to know whether fewer are enough, the host would wait for it at every token.
    """
    on_cpu = probabilities.device.type == "cpu"
    count = min(NUCLEUS, probabilities.shape[-1]) if on_cpu else probabilities.shape[-1]
    while True:
        likely, tokens = probabilities.topk(count, dim=-1)
        held = likely.sum(dim=-1, keepdim=True, dtype=torch.float64)
        if count == probabilities.shape[-1] or bool((held >= mass).all()):
            return likely, tokens
        count = min(8 * count, probabilities.shape[-1])


def _pick(probabilities: Tensor, draws: Tensor) -> Tensor:
    """Returns the index at which the cumulative sum first exceeds draw times total: (B, V), (B,) -> (B,)."""
    rows, size = probabilities.shape
    blocks = torch.nn.functional.pad(probabilities, (0, -size % BLOCK)).view(rows, -1, BLOCK)
    sums = blocks.sum(dim=-1, dtype=torch.float32).double().cumsum(dim=-1)
    targets = draws.to(sums.device)[:, None] * sums[:, -1:]
    block = _first_above(sums, targets)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[torch.arange(rows, device=block.device), block.squeeze(1)].double().cumsum(dim=-1)
    found = (block * BLOCK + _first_above(inside, targets - before)).squeeze(1)
    return found.clamp(max=size - 1)  # beyond it only if logits are NaN, which the loss reports


def _first_above(cumulative: Tensor, targets: Tensor) -> Tensor:
    """Returns the first index whose sum exceeds the target, at most the last that adds to it: (B, n), (B, 1) -> (B, 1).

    No sum exceeds a target that rounds to the total, and tokens after the last that adds to it have probability zero.
    NaN sums (of a diverged model) give the last index.
    """
    found = torch.searchsorted(cumulative, targets, right=True)
    last_possible = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return torch.minimum(found, last_possible).clamp(max=cumulative.shape[1] - 1)
