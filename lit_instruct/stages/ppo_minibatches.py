"""Which episodes make up a minibatch and a micro-batch, in which order."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from lit_instruct.batches import Rollout

Item = TypeVar("Item")


def cut_minibatches(
    lengths: Tensor, count: int, micro_batch_size: int, key: int, first: int, total: int
) -> list[list[list[int]]]:
    """Returns this process's rows of each minibatch, cut into micro-batches of similar prompt length.

    Which prompts form a minibatch follows from the global batch, so it is the same for any number of processes.

    Args:
        lengths: (B,) prompt tokens of this process's rows.
        count: minibatches.
        micro_batch_size: rows in one forward and backward.
        key: of the shuffle.
        first: number of this process's first row in the global batch.
        total: rows of the global batch.
    """
    shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(key % 2**63))
    minibatches = []
    for group in shuffled.tensor_split(count):
        mine = group[(group >= first) & (group < first + len(lengths))] - first
        mine = mine[lengths.cpu()[mine].argsort(stable=True)]
        minibatches.append([part.tolist() for part in mine.split(micro_batch_size) if len(part)])
    return minibatches


def minibatch_order(count: int, key: int) -> list[int]:
    """Returns the order in which an inner epoch takes the minibatches."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(key % 2**63)).tolist()


def regroup(items: list[Item], minibatches: list[list[list[int]]]) -> list[list[Item]]:
    """Cuts a flat list, one item a micro-batch, back into minibatches."""
    remaining = iter(items)
    return [[next(remaining) for _ in minibatch] for minibatch in minibatches]


def idle_part(device: torch.device) -> tuple[Rollout, tuple[Tensor, Tensor]]:
    """Returns a micro-batch, with advantages and returns, of which no token counts.

    A process runs it in step with others that have one more than itself.

    Args:
        device: of the networks.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    tokens, episode = torch.zeros(1, 1, device=device), torch.zeros(1, device=device)
    rollout = Rollout(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        response_mask=tokens.bool(),
        log_probs=tokens,
        reference_log_probs=tokens,
        values=tokens,
        scores=episode,
        raw_scores=episode,
        reward_parts=tokens,
        ended=episode.bool(),
        entropy=episode,
        trunk=None,
    )
    return rollout, (tokens, tokens)
