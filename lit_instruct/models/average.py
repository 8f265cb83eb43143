"""An exponential average of the policy's trained weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


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
        kept = [parameter.data for parameter in self.parameters]
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            parameter.data = average.to(parameter.dtype, copy=True)
        try:
            yield
        finally:
            for weights, parameter in zip(kept, self.parameters, strict=True):
                parameter.data = weights

    def load(self, averages: list[Tensor]) -> None:
        """Takes up the average of a checkpoint."""
        self.averages = [saved.to(parameter.device) for saved, parameter in zip(averages, self.parameters, strict=True)]
