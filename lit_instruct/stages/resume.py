"""What a checkpoint stores for resuming besides Lightning's state, and which options may change on resuming."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_instruct import lightning_private
from lit_instruct.errors import UserError
from lit_instruct.handover import read_stage_of
from lit_instruct.models.loading import Source
from lit_instruct.planning.options import flat
from lit_instruct.stages.checkpoint import read_checkpoint
from lit_instruct.stages.frozen_dtype import DTYPE
from lit_instruct.stages.given import data_options, trainer_options
from lit_instruct.stages.renamed import translated

BOUND = {
    "model.base": "the weights are those of that model",
    "model.lora": "the trained tensors are those of this adapter",
    "model.value.start": "it only says how the value function starts",
    "model.optimizer.name": "the optimizer's state is of that kind",
    "model.objective.inner_epochs": "the steps of an iteration are counted with it",
    "model.objective.minibatches": "the steps of an iteration are counted with it",
    "trainer.accumulate_grad_batches": "the batches of an epoch are grouped by it",
}
"""Options that cannot change when a run is resumed, and why."""
MEASURED = "trainer.optimizer_steps"
"""A measurement, which is not compared."""
OF_GROUPS = ("betas", "eps", "momentum", "weight_decay")
"""Options of an optimizer's groups; the learning rate has a schedule and is handled separately."""


@dataclass
class Resume:
    """Clock, metrics and options of a run across resumes.

    Checkpoints contain the trained weights without the frozen base, and no random state: all random numbers are a
    function of the seed and of counters.
    """

    seconds_before: float = 0.0
    started: float | None = None
    logged_steps: int | None = None
    """Steps that the checkpoint had logged, until the first batch after it."""
    metrics_before: dict[str, float] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    """Names of options that differ from the checkpoint's."""
    configured: list[list[dict[str, Any]]] | None = None
    """Optimizer options as given now, until they replace the checkpoint's."""

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, without interruptions."""
        return self.seconds_before + (time.monotonic() - self.started if self.started is not None else 0.0)

    def metrics(self, trainer: lightning.Trainer) -> dict[str, float]:
        """Returns the latest value of every metric, including those from before a resume."""
        return self.metrics_before | {name: float(value) for name, value in trainer.callback_metrics.items()}

    def start(self, trainer: lightning.Trainer) -> None:
        """Starts the clock, and keeps the optimizer options before a checkpoint replaces them."""
        self.started = time.monotonic()
        self.configured = configured_groups(trainer)

    def correct(self, trainer: lightning.Trainer) -> None:
        """Corrects what Lightning has restored, before the first batch."""
        if self.logged_steps is not None:
            # Lightning counts a step twice if it resumes after a validation.
            lightning_private.set_logged_steps(trainer, self.logged_steps)
            self.logged_steps = None
        if self.configured is not None:
            honour_groups(trainer, self.configured)
            self.configured = None

    def save(self, checkpoint: dict[str, Any], module: lightning.LightningModule, options: Mapping[str, Any]) -> None:
        """Removes untrained weights from Lightning's checkpoint, in place; adds the clock, metrics and options."""
        trainer, weights, trained = module.trainer, checkpoint["state_dict"], _trained(module)
        checkpoint["state_dict"] = {name: weights[name] for name in weights if name in trained}
        checkpoint["seconds"] = self.seconds
        # Lightning counts a step only after the validation that follows it.
        checkpoint["logged_steps"] = lightning_private.logged_steps(trainer) + trainer.validating
        checkpoint["metrics"] = self.metrics(trainer)
        checkpoint["options"] = dict(options)
        checkpoint["stage"] = module.stage
        checkpoint["stopped"] = trainer.should_stop
        checkpoint[DTYPE] = module.dtype_choice.known

    def load(self, checkpoint: dict[str, Any], module: lightning.LightningModule, options: Mapping[str, Any]) -> None:
        """Restores what `save` added; `options` are those of the run that resumes.

        Raises:
            UserError: the checkpoint is of another stage or model or longer than the run, or an option changed that
                must not.
        """
        trainer = module.trainer
        check_stage(checkpoint, str(module.stage))
        self.seconds_before, self.metrics_before = checkpoint["seconds"], checkpoint["metrics"]
        if trainer.state.fn == "fit":
            self.logged_steps = checkpoint["logged_steps"]
            module.dtype_choice.check(checkpoint)
            changed = check_options(checkpoint["options"], options)
            self.changed = [name for name in changed if name in translated(checkpoint["options"])]
            _check_lengths(checkpoint, trainer)
            # Early stopping has ended the training, unless an option has changed, perhaps to continue it.
            trainer.should_stop = checkpoint["stopped"] and not changed
        _check_training_state(checkpoint, module)
        if "state_dict" in checkpoint:  # FSDP2's strategy has loaded the weights, after `check_file`
            check_weights(checkpoint["state_dict"], module)


def _trained(module: lightning.LightningModule) -> dict[str, Tensor]:
    """The trained parameters and the module's own buffers, by name."""
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    return trained | dict(module.named_buffers(recurse=False))


def check_stage(checkpoint: Mapping[str, Any], stage: str) -> None:
    """Refuses checkpoints of another stage."""
    theirs = checkpoint.get("stage", "ppo" if "ppo" in checkpoint else None)  # 0.1.0 did not save it
    if theirs != stage and (theirs is not None or stage == "ppo"):
        found = theirs or "another stage"
        raise UserError(f"--ckpt_path: this is a checkpoint of {found}, not of {stage}; give one of this stage")


def check_weights(weights: Mapping[str, Tensor], module: lightning.LightningModule) -> None:
    """Refuses weights of another model."""
    own = {name: value.shape for name, value in _trained(module).items()}
    saved = {name: value.shape for name, value in weights.items()}
    wrong = [name for name in sorted(own.keys() | saved.keys()) if saved.get(name) != own.get(name)]
    if wrong:
        raise UserError(
            f"--ckpt_path: the checkpoint does not fit this model ({wrong[0]}: {saved.get(wrong[0])} there, "
            f"{own.get(wrong[0])} here); resume with the same --model options"
        )


def check_before_loading(strategy: Any) -> None:
    """Makes FSDP2's strategy check a checkpoint first: by itself it unpickles folders, and skips missing weights."""
    load = strategy.load_checkpoint

    def load_checkpoint(checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        check_file(checkpoint_path, strategy.lightning_module)
        return load(checkpoint_path, weights_only=True)

    strategy.load_checkpoint = load_checkpoint


def check_file(path: str | Path, module: lightning.LightningModule) -> None:
    """Refuses a checkpoint that a module whose networks are built cannot take.

    Raises:
        UserError: the checkpoint is a folder, damaged, or of another stage or model.
    """
    if Path(path).is_dir():
        raise UserError(
            f"--ckpt_path: {path} is a folder of shards, which torch reads with pickle, and that can run code; give a "
            "checkpoint that is one file, as --trainer.strategy=fsdp2 writes it"
        )
    checkpoint = read_checkpoint(path, "cpu", mmap=True)
    check_stage(checkpoint, str(module.stage))
    _check_training_state(checkpoint, module)
    check_weights(checkpoint["state_dict"], module)


def _check_training_state(checkpoint: Mapping[str, Any], module: lightning.LightningModule) -> None:
    """Refuses to train on from weights alone."""
    if module.trainer.state.fn == "fit" and "state_dict" in checkpoint and "optimizer_states" not in checkpoint:
        raise UserError("--ckpt_path: this checkpoint has weights only; give one with the state of the training")


def _check_lengths(checkpoint: Mapping[str, Any], trainer: lightning.Trainer) -> None:
    """Refuses limits below what the checkpoint has already done."""
    for name, done in (("max_epochs", checkpoint["epoch"]), ("max_steps", checkpoint["global_step"])):
        limit = getattr(trainer, name)
        if limit is not None and -1 < limit < done:
            raise UserError(f"--trainer.{name}={limit}: the checkpoint has {done}; give as many or more")


def options_of(
    given: dict[str, Any], trainer: lightning.Trainer, data: Any, sources: Mapping[str, Source | None]
) -> dict[str, Any]:
    """Returns all options of a run by dotted name, as plain values.

    Args:
        given: constructor arguments of the LightningModule.
        trainer: of the run.
        data: the DataModule.
        sources: models that the stage starts from, by option.
    """
    patience = {found.monitor: found.patience for found in trainer.callbacks if isinstance(found, EarlyStopping)}
    parts = {"model": given, "data": data_options(data), "trainer": trainer_options(trainer)}
    named = flat(parts) | {f"trainer.callbacks.patience({name})": value for name, value in patience.items()}
    del named[MEASURED]
    return named | {f"model.{name}": _identity(source) for name, source in sources.items()}


def check_options(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the names of the options that have changed since the checkpoint; the new values are used.

    Raises:
        UserError: one of them cannot change.
    """
    saved = translated(saved)  # a checkpoint of 0.1.0 has other names
    changed = [name for name in sorted(saved.keys() | now.keys()) if saved.get(name) != now.get(name)]
    for name in changed:
        reason = next((why for bound, why in BOUND.items() if name == bound or name.startswith(f"{bound}.")), None)
        if reason is not None:
            raise UserError(
                f"--{name}={_word(now.get(name))}: the checkpoint has {_word(saved.get(name))}, and {reason}; give the "
                "same again, or start a new training without --ckpt_path"
            )
    if changed:
        what = ", ".join(f"{name} {_word(saved.get(name))} -> {_word(now.get(name))}" for name in changed)
        rank_zero_info(f"--ckpt_path: continued with options other than the checkpoint's: {what}")
    return changed


def configured_groups(trainer: lightning.Trainer) -> list[list[dict[str, Any]]]:
    """Returns the options of every optimizer's groups, before a checkpoint's are loaded over them."""
    wanted = ("initial_lr", *OF_GROUPS)
    return [
        [{name: group[name] for name in wanted if name in group} for group in optimizer.param_groups]
        for optimizer in trainer.optimizers
    ]


def honour_groups(trainer: lightning.Trainer, configured: list[list[dict[str, Any]]]) -> None:
    """Sets the options of `configured_groups` in restored optimizers and their schedules.

    The learning rate is multiplied by new / old, which keeps its place in the schedule and the training's own changes.
    """
    schedulers = {config.scheduler.optimizer: config.scheduler for config in trainer.lr_scheduler_configs}
    for optimizer, groups in zip(trainer.optimizers, configured, strict=True):
        for number, (group, wanted) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
            scheduler, old, new = schedulers.get(optimizer), group.get("initial_lr"), wanted.get("initial_lr")
            if scheduler is not None and old is not None and new is not None and old != new:
                group["lr"] *= new / old
                scheduler.base_lrs[number] *= new / old
                scheduler._last_lr[number] *= new / old
            group.update(wanted)


def _identity(source: Source | None) -> str | None:
    """Identifies a model: a stage by its time of creation, so that its folder may be moved but not retrained."""
    stage = read_stage_of(source) if source is not None else None
    return stage.created if stage is not None else source.name if source is not None else None


def _word(value: Any) -> str:
    return "null" if value is None else str(value)
