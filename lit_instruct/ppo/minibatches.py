"""Divides episodes into minibatches and micro-batches, and orders them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from lit_instruct.batches import PromptBatch, Rollout
from lit_instruct.fast.packing import Packing, enough_tokens
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.ppo.targets import Target

Item = TypeVar("Item")
Cut = Callable[[list[int], list[int]], list[list[int]]]
"""(rows, lengths of all rows) -> micro-batches of those rows."""
MARGIN = 1.25
"""A micro-batch may have this many times the tokens of average rows, so that rows of similar length stay together."""


def deal(total: int, count: int, key: int) -> list[list[int]]:
    """Deals the rows of the global batch into minibatches, the same for any number of processes.

    Args:
        total: rows of the global batch.
        count: number of minibatches.
        key: of the shuffle.
    """
    shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(key % 2**63))
    return [rows.tolist() for rows in shuffled.tensor_split(count)]


def iteration_key(key: tuple[int, int]) -> int:
    """Returns the key of an iteration's shuffles from (seed, iteration)."""
    return key[0] * 1_000_003 + key[1]


def minibatches_of(
    lengths: list[int], count: int, key: tuple[int, int], ranks: Ranks, cut: Cut
) -> list[list[list[int]]]:
    """Deals the global batch into minibatches and cuts this process's rows of each into micro-batches.

    Args:
        lengths: tokens of each row of this process; every process has the same number of rows.
        count: number of minibatches.
        key: (seed, iteration).
        ranks: processes that share the global batch.
        cut: cuts rows into micro-batches.

    Returns:
        Local rows of each micro-batch of each minibatch.
    """
    rows = len(lengths)
    first = ranks.rank * rows
    dealt = deal(ranks.count * rows, count, iteration_key(key))
    return [cut([row - first for row in minibatch if 0 <= row - first < rows], lengths) for minibatch in dealt]


def sequence_lengths(batch: PromptBatch, responses: list[list[int]]) -> list[int]:
    """Returns the tokens of each prompt with its response."""
    prompts = batch.prompt_mask.sum(dim=1).tolist()
    return [prompt + len(response) for prompt, response in zip(prompts, responses, strict=True)]


def micro_batches(rows: list[int], lengths: list[int], size: int, device: str) -> list[list[int]]:
    """Cuts rows into micro-batches of similar length, each with about the tokens of `size` average rows.

    Args:
        rows: row numbers.
        lengths: tokens of every row of this process, chosen or not.
        size: rows of average length in a micro-batch.
        device: device type, which decides how much padding another forward must save.
    """
    if not rows:
        return []
    widths = [lengths[row] for row in rows]
    most = min(math.ceil(MARGIN * size * sum(widths) / len(widths)), size * max(widths))
    rules = Packing("off", enough_tokens(most, device), hidden_size=0, device=device)
    return [[rows[number] for number in forward] for forward in rules.forwards(widths)]


def minibatch_order(count: int, key: int) -> list[int]:
    """Returns the order in which an inner epoch takes the minibatches."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(key % 2**63)).tolist()


def regroup(items: Sequence[Item], minibatches: list[list[list[int]]]) -> list[list[Item]]:
    """Groups a flat list, with one item per micro-batch, by minibatch again."""
    remaining = iter(items)
    return [[next(remaining) for _ in minibatch] for minibatch in minibatches]


def idle_part(device: torch.device) -> tuple[Rollout, Target]:
    """Returns a micro-batch without counted tokens, which a process runs in step with others that have one more."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    tokens, episode = torch.zeros(1, 1, device=device), torch.zeros(1, device=device)
    rollout = Rollout(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        prompt_length=torch.ones(1, dtype=torch.long, device=device),
        response_mask=tokens.bool(),
        log_probs=tokens,
        reference_log_probs=tokens,
        values=tokens,
        scores=episode,
        reward_parts=tokens,
        ended=episode.bool(),
        entropy=episode,
        trunk=None,
    )
    return rollout, Target(episode, tokens, tokens)
