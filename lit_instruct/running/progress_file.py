"""`logs/progress.json`: how far a training is and how much memory it took, for whoever watches it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from lit_instruct.errors import Interrupted
from lit_instruct.files import beside
from lit_instruct.machine import peak_bytes
from lit_instruct.progress import PROGRESS_FILE
from lit_instruct.running.last_checkpoint import InterruptedRunError
from lit_instruct.running.progress_bar import listen_to_phases, steps_of
from lit_instruct.stages.base import StageModule

EVERY = 1.0
"""Least seconds between two states of the file."""


class ProgressFile(Callback):
    """Writes the steps so far, the phase and the peak memory of rank 0 into a file, once a second at most.

    Times are seconds since 1970. `ended` is null while it trains, "complete", "stopped" (by Ctrl-C or SIGTERM) or what
    failed. A step is an iteration of PPO, and a batch of the other stages.

    Args:
        folder: of the stage, such as runs/demo/ppo.
        clock: seconds since 1970; for tests.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = folder / "logs" / PROGRESS_FILE
        self.clock = clock
        self.state: dict[str, Any] = {}
        self.due = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Writes the first state, once the files of the previous run have been moved away."""
        done, total = steps_of(trainer)
        now = self.clock()
        device = "cuda" if trainer.strategy.root_device.type == "cuda" else "cpu"
        self.state = {"first": done, "done": done, "total": total, "began": now, "stepped": now, "device": device}
        self.state |= {"phase": "", "ended": None}
        listen_to_phases(pl_module, lambda phase, done, total: self._write(trainer, f"{phase} {done}/{total}"))
        self._write(trainer, "", at_once=True)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Counts a step."""
        done = steps_of(trainer)[0]
        if done != self.state["done"]:
            self.state |= {"done": done, "stepped": self.clock()}
        self._write(trainer, "")

    def on_validation_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Tells that a validation goes on."""
        if self.state:
            self._write(trainer, f"validation, batch {batch_idx + 1}")

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Tells that all steps are done; the result is written after it."""
        self._end(trainer, "complete")

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Tells what ended the training."""
        stopped = isinstance(exception, InterruptedRunError | Interrupted | KeyboardInterrupt)
        said = " ".join(str(exception).split())[:300]
        self._end(trainer, "stopped" if stopped else f"{type(exception).__name__}: {said}" if said else "failed")

    def _end(self, trainer: lightning.Trainer, how: str) -> None:
        if self.state:
            self.state["ended"] = how
            self._write(trainer, "", at_once=True)

    def _write(self, trainer: lightning.Trainer, phase: str, at_once: bool = False) -> None:
        now = self.clock()
        if not trainer.is_global_zero or (now < self.due and not at_once):
            return
        assert isinstance(trainer.lightning_module, StageModule)
        self.due = now + EVERY
        peak = peak_bytes(self.state["device"])
        state = {"stage": trainer.lightning_module.stage} | self.state
        state |= {"phase": phase, "written": now, "peak_memory_gb": None if peak is None else round(peak / 1e9, 2)}
        with contextlib.suppress(OSError):  # a training must not end because nobody can watch it
            self.path.parent.mkdir(parents=True, exist_ok=True)
            scratch = beside(self.path)
            scratch.write_text(json.dumps(state) + "\n", encoding="utf-8")
            os.replace(scratch, self.path)
