"""An exponential moving average of the policy's trained weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights, for the given parameters only.

    Lightning's weight-averaging callback copies the whole module, whose frozen base may be quantised.

    Args:
        parameters: the weights to average; the average starts as a float32 copy of them.
        decay: weight of the old average in every update, in [0, 1).

    Source: C.4 (0.992).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.averages = [parameter.detach().float().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Updates the average with the current weights."""
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.lerp_(parameter.detach().float(), 1 - self.decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Replaces the parameters by the average inside the block and restores them bit for bit afterwards."""
        kept = [p.detach().clone() if isinstance(p, DTensor) else p.data for p in self.parameters]
        try:
            for parameter, average in zip(self.parameters, self.averages, strict=True):
                _set(parameter, average.to(parameter.dtype, copy=True))
            yield
        finally:
            for parameter, weights in zip(self.parameters, kept, strict=True):
                _set(parameter, weights)

    def state(self) -> list[Tensor]:
        """Returns the average for a checkpoint; of sharded weights only rank 0 gets it, and all ranks take part."""
        return [_whole(average) for average in self.averages]

    def load(self, averages: list[Tensor]) -> None:
        """Restores the average from a checkpoint; every rank passes whole tensors."""
        self.averages = [_like(saved, parameter) for saved, parameter in zip(averages, self.parameters, strict=True)]


@torch.no_grad()
def _set(parameter: nn.Parameter, weights: Tensor) -> None:
    if isinstance(parameter, DTensor):  # FSDP2 gathers from the shards' own memory
        parameter.copy_(weights)
    else:
        parameter.data = weights


def _whole(average: Tensor) -> Tensor:
    """Returns the average, or the whole of a sharded one: in host memory on rank 0, empty on other ranks."""
    if not isinstance(average, DTensor):
        return average
    whole = average.full_tensor()
    return whole.cpu() if average.device_mesh.get_rank() == 0 else whole.new_empty(0)


def _like(saved: Tensor, parameter: nn.Parameter) -> Tensor:
    """Returns a whole tensor on the parameter's device, or this rank's shard of it if the parameter is sharded."""
    if not isinstance(parameter, DTensor):
        return saved.to(parameter.device)
    whole = saved.to(parameter.device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
