"""Every collective of ours that is not one of Lightning's strategy: all ranks call it, equally often.

Numbers travel as tensors on the device, since NCCL takes no others; torch moves objects there itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed


def gather_objects(mine: Any, ranks: int) -> list[Any]:
    """Returns the objects of all ranks, in their order; they are pickled on the way, and must be small."""
    everywhere: list[Any] = [None] * ranks
    distributed.all_gather_object(everywhere, mine)
    return everywhere


def largest(counts: Sequence[int], device: torch.device) -> list[int]:
    """Returns the maximum over the ranks of each count.

    Args:
        counts: of this rank; every rank has as many.
        device: of this rank.
    """
    found = torch.tensor(counts, device=device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return found.tolist()
