"""An exponential average of the policy's trained weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights, of the given parameters alone.

    Lightning's weight-averaging callback copies the whole module, whose frozen base may be quantised.

    Args:
        parameters: what is averaged; the average starts as a float32 copy of them.
        decay: share of the old average that is kept at every update, in [0, 1).

    Source: C.4 (0.992).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.averages = [parameter.detach().float().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the present weights into the average."""
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.lerp_(parameter.detach().float(), 1 - self.decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Lets the parameters hold the average inside the block; afterwards they are what they were, to the bit."""
        kept = [_put(average, parameter) for average, parameter in zip(self.averages, self.parameters, strict=True)]
        try:
            yield
        finally:
            for weights, parameter in zip(kept, self.parameters, strict=True):
                _put_back(weights, parameter)

    def state(self) -> list[Tensor]:
        """Returns the average for a checkpoint.

        Of weights in pieces, for which every process has to call it, rank 0 has the whole.
        """
        return [_whole(average) for average in self.averages]

    def load(self, averages: list[Tensor]) -> None:
        """Takes up the average of a checkpoint, which every process has."""
        self.averages = [_like(saved, parameter) for saved, parameter in zip(averages, self.parameters, strict=True)]


@torch.no_grad()
def _put(average: Tensor, parameter: nn.Parameter) -> Tensor:
    """Lets a parameter hold its average; returns what it held."""
    kept = parameter.data
    if isinstance(parameter, DTensor):  # FSDP2 gathers from where the pieces lie
        kept = parameter.detach().clone()
        parameter.copy_(average)
    else:
        parameter.data = average.to(parameter.dtype, copy=True)
    return kept


@torch.no_grad()
def _put_back(weights: Tensor, parameter: nn.Parameter) -> None:
    if isinstance(parameter, DTensor):
        parameter.copy_(weights)
    else:
        parameter.data = weights


def _whole(average: Tensor) -> Tensor:
    """The average itself, or what its pieces make together: on the host of rank 0, and nothing elsewhere."""
    if not isinstance(average, DTensor):
        return average
    whole = average.full_tensor()
    return whole.cpu() if average.device_mesh.get_rank() == 0 else whole.new_empty(0)


def _like(saved: Tensor, parameter: nn.Parameter) -> Tensor:
    """This process's piece of a whole tensor where the parameter is one."""
    if not isinstance(parameter, DTensor):
        return saved.to(parameter.device)
    return distribute_tensor(
        saved.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
