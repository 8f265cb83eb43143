"""The progress of a stage: one bar for the whole training, with the phase, seconds per step and the time left."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar

from lit_instruct.ppo.phases import Listener
from lit_instruct.progress import Progress, in_words
from lit_instruct.stages.ppo import PPOModule

SHOWN = {
    "train/loss": "loss",
    "val/loss": "val loss",
    "val/pair_accuracy": "val accuracy",
    "val/token_accuracy": "val accuracy",
    "ppo/reward": "reward",
    "ppo/kl": "KL",
    "ppo/response_length": "length",
    "ppo/tokens_per_second": "tokens/s",
    "val/reward": "val reward",
}
LONG = 60.0
"""Seconds of a training that says at its start how long it will take."""
MEASURED = 5.0
"""Seconds of steps that this estimate is made from, at least."""


SLOW = 20.0
"""Seconds of a first step that counts."""


class StageProgress(ProgressBar):
    """Shows one bar for all steps of a training, whatever its epochs; for PPO a step is an iteration.

    Without a terminal it writes lines, and at the start of a long training how long it will take.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.progress: Progress | None = None
        self.phase = ""
        self.after_first: tuple[int, float] | None = None
        """Steps and seconds when the first step of this run had ended, until the estimate was made."""
        self.estimated = False

    def disable(self) -> None:
        """Shows nothing from now on."""
        self.enabled = False

    def enable(self) -> None:
        """Shows progress again."""
        self.enabled = True

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Returns the figures of the bar."""
        metrics = trainer.callback_metrics
        values = {shown: float(metrics[name]) for name, shown in SHOWN.items() if name in metrics}
        return {name: f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}" for name, value in values.items()}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Opens the bar."""
        done, total = steps_of(trainer)
        self._open(trainer, _stage(pl_module), total, done)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Counts a step."""
        self._show(done=steps_of(trainer)[0])
        self._estimate()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Opens a bar of its own unless the validation is part of a training."""
        if self.progress is None:
            self._open(trainer, f"{_stage(pl_module)}: validation", _total(trainer.num_val_batches))

    def on_validation_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Shows how far the validation is."""
        self._evaluates(trainer, batch_idx, _total(trainer.num_val_batches))

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Returns to the training."""
        self.phase = ""
        if not trainer.training and trainer.state.fn != "fit":
            self._close()

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Opens a bar."""
        self._open(trainer, f"{_stage(pl_module)}: test", _total(trainer.num_test_batches))

    def on_test_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Shows how far the test is."""
        self._evaluates(trainer, batch_idx, _total(trainer.num_test_batches))

    def on_test_end(self, *_: Any) -> None:
        """Closes the bar."""
        self._close()

    def on_train_end(self, *_: Any) -> None:
        """Closes the bar, so that what follows begins on a line of its own."""
        self._close()

    on_exception = on_train_end

    def teardown(self, *_: Any, **__: Any) -> None:
        """Closes the bar of a run that ended in another way."""
        self._close()

    def _open(self, trainer: lightning.Trainer, name: str, total: int | None, done: int = 0) -> None:
        if not self.enabled:
            return
        listen_to_phases(trainer.lightning_module, self._on_phase)
        self.progress = Progress(name, total, done)
        self._show(done)

    def _show(self, done: int | None = None, phase: str = "") -> None:
        if self.progress is not None:
            words = ", ".join(part for part in (self.phase, phase) if part)
            now = self.progress.done if done is None else done
            self.progress.update(now, words, self.get_metrics(self.trainer, self.trainer.lightning_module))

    def _on_phase(self, phase: str, done: int, total: int) -> None:
        self._show(phase=f"{phase} {done}/{total}")

    def _evaluates(self, trainer: lightning.Trainer, number: int, total: int | None) -> None:
        if trainer.state.fn == "fit":
            self.phase = f"validation {number + 1}/{total}"
            self._show()
        else:
            self._show(done=number)

    def _estimate(self) -> None:
        """Says once how long a training will take, from its first steps.

        The very first one is slower than others; it counts only where steps are long.
        """
        progress = self.progress
        if progress is None or progress.total is None or self.estimated:
            return
        steps, measured = progress.done - progress.first, progress.seconds
        if self.after_first is None and measured < SLOW:
            self.after_first = (steps, measured)
        if self.after_first is not None:
            steps, measured = steps - self.after_first[0], measured - self.after_first[1]
        if not steps or measured < MEASURED:
            return
        self.estimated = True
        left = (progress.total - progress.done) * measured / steps
        if progress.seconds + left > LONG:
            rest = progress.total - progress.done
            on_top = "; validations come on top" if _total(self.trainer.num_val_batches) else ""
            what = (
                f"about {in_words(left)} for the other {rest} steps on this machine, estimated from the first {steps}"
            )
            progress.write(f"{progress.name}: {what}{on_top}")

    def _close(self) -> None:
        self.phase = ""
        if self.progress is not None:
            self.progress.close()
            self.progress = None


def listen_to_phases(module: lightning.LightningModule, listener: Listener) -> None:
    """Lets a listener hear of the phases of PPO's iterations from now on, once each."""
    if isinstance(module, PPOModule):
        for phases in (module.collector.phases, module.updater.phases):
            phases.listeners = [*(one for one in phases.listeners if one != listener), listener]


def steps_of(trainer: lightning.Trainer) -> tuple[int, int | None]:
    """Returns how many steps a training has done, and how many it will have done if nothing ends it early.

    A step is an iteration of PPO, and a batch of the other stages; the number is None if only a time limit ends them.
    """
    module = trainer.lightning_module
    if isinstance(module, PPOModule):
        return module.iterations_done, module.iterations
    totals = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        totals.append(trainer.num_training_batches * trainer.max_epochs)
    if trainer.max_steps > 0:
        totals.append(trainer.max_steps * trainer.accumulate_grad_batches)
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1, _total(min(totals, default=float("inf")))


def _total(batches: Any) -> int | None:
    count = sum(batches) if isinstance(batches, list) else batches
    return int(count) if count != float("inf") else None


def _stage(module: lightning.LightningModule) -> str:
    return str(getattr(module, "stage", "training"))
