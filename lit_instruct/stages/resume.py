"""Options that change between a checkpoint and the run that continues it: refused or honoured, and said either way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info

from lit_instruct.errors import UserError
from lit_instruct.handover import read_stage_of
from lit_instruct.models.loading import Source
from lit_instruct.planning.options import flat
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
"""Options that cannot change when a run is continued, and why."""
MEASURED = "trainer.optimizer_steps"
"""What is no option."""
OF_GROUPS = ("betas", "eps", "momentum", "weight_decay")
"""Options of an optimizer's groups that are no state; the learning rate has a schedule and is treated apart."""


def options_of(
    given: dict[str, Any], trainer: lightning.Trainer, sources: Mapping[str, Source | None]
) -> dict[str, Any]:
    """Returns all options of a run by their dotted names, as plain values.

    Args:
        given: constructor arguments of the LightningModule.
        trainer: with the DataModule.
        sources: models that the stage starts from, by the option that names them.
    """
    patience = {found.monitor: found.patience for found in trainer.callbacks if isinstance(found, EarlyStopping)}
    parts = {"model": given, "data": data_options(trainer.datamodule), "trainer": trainer_options(trainer)}
    named = flat(parts) | {f"trainer.callbacks.patience({name})": value for name, value in patience.items()}
    del named[MEASURED]
    return named | {f"model.{name}": _identity(source) for name, source in sources.items()}


def check_options(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Tells which options have changed since the checkpoint, which from now on hold as they are given now.

    Returns:
        Their names.

    Raises:
        UserError: one of them cannot change.
    """
    saved = translated(saved)  # those of 0.1.0 had other names
    changed = [name for name in sorted(saved.keys() | now.keys()) if saved.get(name) != now.get(name)]
    for name in changed:
        reason = next((why for bound, why in BOUND.items() if name == bound or name.startswith(f"{bound}.")), None)
        if reason is not None:
            raise UserError(
                f"--{name}={_word(now.get(name))}: the checkpoint has {_word(saved.get(name))}, and {reason}; give the "
                "same again, or train anew without --ckpt_path"
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
    """Puts optimizer options as they are given now into restored optimizers and their schedules.

    A learning rate keeps its place in the schedule, and what the training itself did to it: every rate is multiplied by
    new / old.

    Args:
        trainer: with restored optimizers and schedules.
        configured: of `configured_groups`.
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
    """Names a model: a stage's by the moment it was made, so that its folder may be moved but not trained anew."""
    stage = read_stage_of(source) if source is not None else None
    return stage.created if stage is not None else source.name if source is not None else None


def _word(value: Any) -> str:
    return "null" if value is None else str(value)
