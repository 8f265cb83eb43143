"""What a stage's checkpoint holds beside what Lightning puts into it, and how a run takes that up again."""

from __future__ import annotations

import time
from typing import Any

import lightning

from lit_instruct.errors import UserError
from lit_instruct.fast.host_memory import spare_host_memory
from lit_instruct.stages.resume import check_options, configured_groups, honour_groups


class ResumableModule(lightning.LightningModule):
    """A LightningModule whose checkpoints are small, and continue a run as if it had never been stopped.

    They hold what is trained, not the frozen base, and no random state: whatever is random is a function of the seed
    and of counters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.strict_loading = False  # the frozen base comes from its own folder
        self.seconds_before = 0.0
        self.started: float | None = None
        self.logged_steps: int | None = None
        """Batches that the checkpoint had logged, until the first one after it."""
        self.metrics_before: dict[str, float] = {}
        self.configured: list[list[dict[str, Any]]] | None = None
        """Options of the optimizer as they are given now, until they replace the checkpoint's."""

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, over all its sittings."""
        return self.seconds_before + (time.monotonic() - self.started if self.started is not None else 0.0)

    def on_fit_start(self) -> None:
        """Starts the clock."""
        spare_host_memory(self.device)
        self.started = time.monotonic()
        self.configured = configured_groups(self.trainer)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Corrects, before the first batch, what Lightning has restored."""
        if self.logged_steps is not None:
            # Lightning counts a step once too often where it resumes after a validation.
            self.trainer.fit_loop.epoch_loop._batches_that_stepped, self.logged_steps = self.logged_steps, None
        if self.configured is not None:
            honour_groups(self.trainer, self.configured)
            self.configured = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps only what is trained, the clock, the latest metrics, and the options."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        buffers = {name for name, _ in self.named_buffers(recurse=False)}
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: weights[name] for name in weights if name in trained | buffers}
        checkpoint["seconds"] = self.seconds
        # Lightning counts a step only after the validation that follows it.
        checkpoint["logged_steps"] = self.trainer.fit_loop.epoch_loop._batches_that_stepped + self.trainer.validating
        checkpoint["metrics"] = self.metrics_so_far()
        checkpoint["options"] = self.options_given()
        checkpoint["stopped"] = self.trainer.should_stop

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes those up.

        Raises:
            UserError: the checkpoint is of another model, or bound to options that have changed.
        """
        self.seconds_before, self.metrics_before = checkpoint["seconds"], checkpoint["metrics"]
        if self.trainer.state.fn == "fit":
            self.logged_steps = checkpoint["logged_steps"]
            changed = check_options(checkpoint["options"], self.options_given())
            self._check_lengths(checkpoint)
            # Where early stopping ended the training, it has ended; but another option may be meant to let it go on.
            self.trainer.should_stop = checkpoint["stopped"] and not changed
        if "state_dict" not in checkpoint:  # FSDP2's strategy has loaded, and checked, the weights by itself
            return
        own = {name: parameter.shape for name, parameter in self.named_parameters() if parameter.requires_grad}
        own |= {name: buffer.shape for name, buffer in self.named_buffers(recurse=False)}
        saved = {name: value.shape for name, value in checkpoint["state_dict"].items()}
        wrong = [name for name in sorted(own.keys() | saved.keys()) if saved.get(name) != own.get(name)]
        if wrong:
            raise UserError(
                f"--ckpt_path: the checkpoint does not fit this model ({wrong[0]}: {saved.get(wrong[0])} there, "
                f"{own.get(wrong[0])} here); resume with the same --model options"
            )

    def options_given(self) -> dict[str, Any]:
        """Returns every option of the run by its dotted name."""
        raise NotImplementedError

    def metrics_so_far(self) -> dict[str, float]:
        """Returns the latest value of every metric, those from before a resume included."""
        return self.metrics_before | {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    def _check_lengths(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to train for less than the checkpoint already has."""
        for name, done in (("max_epochs", checkpoint["epoch"]), ("max_steps", checkpoint["global_step"])):
            limit = getattr(self.trainer, name)
            if limit is not None and -1 < limit < done:
                raise UserError(f"--trainer.{name}={limit}: the checkpoint has {done}; give as many or more")
