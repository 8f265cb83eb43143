"""What trainings of `benchmarks.plan` and `benchmarks.gpu_check` import by name: a reward, and a callback."""

from __future__ import annotations

import gc
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from benchmarks.harness import peak_bytes, reset_peak


def length_of(pairs: list[tuple[str, str]]) -> list[float]:
    """A reward for PPO: the length of the response."""
    return [float(len(response)) for _, response in pairs]


class Peak(Callback):
    """Remembers the most memory held between the first and the last step of the training."""

    found = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Resets the peak, so that loading does not count."""
        gc.collect()
        reset_peak()

    def on_train_batch_end(self, *_: Any) -> None:
        """Records the peak so far."""
        Peak.found = peak_bytes()
