"""The exponential moving average of the policy's weights, which is validated and handed over (C.4)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from lit_instruct.models.average import WeightAverage


class PolicyAverage:
    """An average that starts once the weights are on their device; there is none if `decay` is None."""

    def __init__(self, decay: float | None) -> None:
        self.decay = decay
        self.weights: WeightAverage | None = None
        self.saved: list[Tensor] | None = None
        """The average of a checkpoint that was loaded before the average could start."""

    def start(self, parameters: Sequence[nn.Parameter]) -> None:
        """Starts the average of these parameters, or of the loaded checkpoint; a second call does nothing."""
        if self.weights is None and self.decay is not None:
            self.weights = WeightAverage(parameters, self.decay)
            if self.saved is not None:
                self.weights.load(self.saved)

    def restore(self, saved: list[Tensor] | None) -> None:
        """Restores a checkpoint's average; FSDP2 loads it after the average has started."""
        self.saved = saved
        if self.weights is not None:
            parameters, self.weights = self.weights.parameters, None
            self.start(parameters)

    def update(self) -> None:
        """Updates the average with the current weights."""
        if self.weights is not None:
            self.weights.update()

    def applied(self) -> AbstractContextManager[None]:
        """Returns a context in which the policy has the averaged weights, if there is an average."""
        return self.weights.in_place() if self.weights is not None else nullcontext()

    def state(self) -> list[Tensor] | None:
        """Returns the average for a checkpoint; every process has to call it."""
        return self.weights.state() if self.weights is not None else None
