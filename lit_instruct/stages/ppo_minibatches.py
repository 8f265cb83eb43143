"""Which episodes make up a minibatch and a micro-batch, in which order."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

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
