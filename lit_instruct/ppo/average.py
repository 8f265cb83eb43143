"""The exponential moving average of the policy that is validated and handed over (C.4)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from lit_instruct.models.average import WeightAverage


class PolicyAverage:
    """An average that starts when the weights lie on their device; without a decay there is none.

    Args:
        decay: share of the old average that is kept at every iteration; None keeps no average.
    """

    def __init__(self, decay: float | None) -> None:
        self.decay = decay
        self.weights: WeightAverage | None = None
        self.saved: list[Tensor] | None = None
        """Of a checkpoint that was read before the average could start."""

    def start(self, parameters: Sequence[nn.Parameter]) -> None:
        """Starts the average of these parameters, from a checkpoint's where one was read; does nothing twice."""
        if self.weights is None and self.decay is not None:
            self.weights = WeightAverage(parameters, self.decay)
            if self.saved is not None:
                self.weights.load(self.saved)

    def restore(self, saved: list[Tensor] | None) -> None:
        """Takes a checkpoint's average; FSDP2 reads it after the average has started."""
        self.saved = saved
        if self.weights is not None:
            parameters, self.weights = self.weights.parameters, None
            self.start(parameters)

    def update(self) -> None:
        """Adds the present weights to the average."""
        if self.weights is not None:
            self.weights.update()

    def applied(self) -> AbstractContextManager[None]:
        """A block in which the policy has the averaged weights, where an average is kept."""
        return self.weights.in_place() if self.weights is not None else nullcontext()

    def state(self) -> list[Tensor] | None:
        """Returns the average for a checkpoint; every process has to call it."""
        return self.weights.state() if self.weights is not None else None
