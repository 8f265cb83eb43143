"""`last.ckpt`: the checkpoint that a run resumes from, always the state between two steps."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_instruct import lightning_private
from lit_instruct.errors import UserError
from lit_instruct.running.interrupts import end_at_once
from lit_instruct.stages.base import StageModule

SECONDS = 600.0
"""Most training time that a killed run loses, up to one step more."""


class InterruptedRunError(Exception):
    """The run was interrupted by Ctrl-C or SIGTERM; the step was finished and a checkpoint saved."""


class LastCheckpoint(Checkpoint):
    """Saves the state of training to `path` at the end of a step, with everything that the step logged.

    It saves after a validation, at the end of an epoch and of training, every ten minutes, and on Ctrl-C or SIGTERM
    once all processes have finished their step; a second Ctrl-C stops at once. If an iteration of PPO fails before it
    changed a weight (in a reward function, or out of memory), it saves the state after the previous iteration.

    Training ends with a validation even if none is scheduled. A longer training would not have it, so the state before
    that validation is saved. If the last step only measured, a longer training would have learnt from it, so the state
    before that step is saved.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pressed = False
        self.earlier: Any = None
        self.patience: dict[EarlyStopping, int] = {}
        self.state: dict[str, Any] | None = None
        """State after the last complete step, until it is written."""
        self.latest: dict[str, Any] | None = None
        """The same, also when it is written."""
        self.weights: list[int] = []
        """How often each trained tensor had been changed by then."""
        self.trained = False
        """Whether there was a step since the last checkpoint; resuming also calls the end-of-step hooks."""
        self.due = False
        self.ended = False
        self.saved_at = time.monotonic()

    def setup(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        """Records the options that Lightning would take from the checkpoint."""
        self.patience = {found: found.patience for found in trainer.callbacks if isinstance(found, EarlyStopping)}

    def on_fit_start(self, *_: Any) -> None:
        """Installs the handler of Ctrl-C."""
        self.earlier = signal.signal(signal.SIGINT, self._press)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Extends the loops' `on_advance_end`, which runs after a step is logged and validated.

        No callback hook runs that late, and `trainer.should_stop` would force a validation.
        """
        # Lightning's handler, set after `on_fit_start`, broadcasts inside the signal: a process that waits in another
        # collective would wait forever.
        signal.signal(signal.SIGTERM, self._press)
        for callback, patience in self.patience.items():
            callback.patience = patience
        self.saved_at = time.monotonic()
        fit_loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop

        def after_step(fetcher: Any, original: Any = epoch_loop.on_advance_end) -> None:
            if self._stays(trainer):
                self.state, self.ended = self.latest, True
                self.trained = self.latest is not None
            elif _validates_only_as_it_ends(trainer, fetcher):
                steps = lightning_private.logged_steps(trainer)
                lightning_private.set_logged_steps(trainer, steps + 1)
                self._take(trainer)
                lightning_private.set_logged_steps(trainer, steps)
                self.ended = True
            original(fetcher)
            inside = not lightning_private.accumulates(trainer) and not lightning_private.epoch_is_over(trainer)
            if self.trained and inside:
                if _keeps_states(trainer) and not self.ended:
                    self._take(trainer)
                self._write_if_due(trainer)

        def after_epoch(original: Any = fit_loop.on_advance_end) -> None:
            original()
            if not self.trained:
                return
            self.due = True
            if lightning_private.epoch_is_over(trainer) and not self.ended:  # otherwise the step's state is kept
                self._take(trainer)
            self._write_if_due(trainer)

        epoch_loop.on_advance_end, fit_loop.on_advance_end = after_step, after_epoch

    def on_train_batch_end(self, *_: Any) -> None:
        """Records that there is a new state."""
        self.trained = True

    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Marks the state to be saved."""
        self.due = self.due or not trainer.sanity_checking

    def on_exception(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: Any) -> None:
        """Saves the state after the last complete step, if the weights have not changed since."""
        if self.state is None or self.ended or not isinstance(exception, Exception):
            return
        if self.state["global_step"] != trainer.global_step or self.weights != _changes(pl_module):
            return
        with contextlib.suppress(OSError, UserError):  # the disk may be what failed
            trainer.strategy.save_checkpoint(self.state, self.path)
            rank_zero_info("The last complete step is saved; resume with --ckpt_path=last.")

    def teardown(self, *_: Any, **__: Any) -> None:
        """Restores the handler of Ctrl-C."""
        self.state = self.latest = None
        if self.earlier is not None:
            signal.signal(signal.SIGINT, self.earlier)
            self.earlier = None

    def _stays(self, trainer: lightning.Trainer) -> bool:
        """Whether the last step only measured, and the state before it is known or in the file."""
        assert isinstance(trainer.lightning_module, StageModule)
        resumed = trainer.ckpt_path is not None and Path(trainer.ckpt_path).absolute() == self.path.absolute()
        return trainer.lightning_module.only_measured and (self.latest is not None or resumed)

    def _take(self, trainer: lightning.Trainer) -> None:
        """Keeps the state without a copy; it is valid until the next optimizer step."""
        self.state = lightning_private.state_of(trainer)
        self.latest = self.state if _keeps_states(trainer) else None
        self.weights = _changes(trainer.lightning_module)

    def _write_if_due(self, trainer: lightning.Trainer) -> None:
        any_process = trainer.strategy.reduce_boolean_decision
        fault = getattr(trainer.lightning_module, "fault", None)
        leaving = any_process(self.pressed or fault is not None, all=False)
        if any_process(self.due or leaving or time.monotonic() - self.saved_at > SECONDS, all=False):
            self._write(trainer)
        if leaving:
            raise fault or InterruptedRunError

    def _write(self, trainer: lightning.Trainer) -> None:
        if self.state is None:
            self._take(trainer)
        assert self.state is not None and isinstance(trainer.lightning_module, StageModule)
        if not trainer.lightning_module.only_measured:
            self.state["metrics"] = trainer.lightning_module.metrics_so_far()  # including those of a final validation
        trainer.strategy.save_checkpoint(self.state, self.path)
        trainer.strategy.barrier("last checkpoint")
        self.state, self.trained, self.due, self.saved_at = None, False, False, time.monotonic()

    def _press(self, number: int, _: Any) -> None:
        if self.pressed and number == signal.SIGINT:
            end_at_once()
        if not self.pressed and rank_zero_only.rank == 0:
            how = "press Ctrl-C again" if number == signal.SIGINT else "press Ctrl-C"
            print(f"\nStopping after this step; {how} to stop at once.", flush=True)
        self.pressed = True


def _validates_only_as_it_ends(trainer: lightning.Trainer, fetcher: Any) -> bool:
    """Whether the validation after this step is one that a longer training would not have."""
    if not trainer.should_stop or not lightning_private.validates(trainer, fetcher):
        return False
    trainer.should_stop = False
    scheduled = lightning_private.validates(trainer, fetcher)
    trainer.should_stop = True
    return not scheduled


def _keeps_states(trainer: lightning.Trainer) -> bool:
    """Whether the state is kept after every step: only if that copies no tensor and steps are long, as in PPO."""
    copies = not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
    return not copies and not trainer.lightning_module.automatic_optimization


def _changes(module: torch.nn.Module) -> list[int]:
    """How often each trained tensor has been changed in place."""
    return [parameter._version for parameter in module.parameters() if parameter.requires_grad]
