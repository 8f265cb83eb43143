"""Options of a training as JSON: constructor arguments of model and data, and settings of the Trainer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from itertools import chain
from types import FrameType
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.utilities.parsing import collect_init_args

from lit_instruct.prompting.hashes import hashes_of, questions_in
from lit_instruct.rollouts.function_names import function_name

TRAINER = ("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val", "num_nodes", "world_size")
"""Attributes of a Trainer that are hyperparameters."""


def constructor_arguments(frame: FrameType | None) -> dict[str, Any]:
    """Returns the arguments of the most specific class whose `__init__` is running; `frame` is a base class's."""
    given = collect_init_args(frame, []) if frame is not None else []
    return {name: as_json(value) for name, value in given[-1].items()} if given else {}


def data_options(data: Any) -> dict[str, Any]:
    """Returns the constructor arguments that a DataModule keeps under their names; {} for None."""
    names = inspect.signature(type(data).__init__).parameters if data is not None else {}
    return {name: as_json(getattr(data, name)) for name in names if name != "self" and hasattr(data, name)}


def trainer_options(trainer: lightning.Trainer | None) -> dict[str, Any]:
    """Returns a Trainer's limits, number of processes, strategy and precision; {} for None."""
    if trainer is None:
        return {}
    found = {name: as_json(getattr(trainer, name)) for name in TRAINER}
    strategy = type(trainer.strategy).__name__
    return found | {"precision": trainer.precision, "strategy": strategy, "optimizer_steps": trainer.global_step}


def options_record(
    given: dict[str, Any], data: Any, trainer: lightning.Trainer | None, made_with: dict[str, Any] | None
) -> dict[str, Any]:
    """Returns the options of a stage as stage.json has them.

    Args:
        given: constructor arguments of the LightningModule.
        data: the DataModule, or None.
        trainer: the Trainer, or None.
        made_with: the record of the run that made the weights, if it was not this one; it counts, but for the number of
            steps.
    """
    now = {"model": given, "data": data_options(data), "trainer": trainer_options(trainer)}
    if made_with is None:
        return now
    steps = {name: value for name, value in now["trainer"].items() if name == "optimizer_steps"}
    return made_with | {"trainer": made_with["trainer"] | steps}


def data_report(data: Any) -> dict[str, Any] | None:
    """Returns how many rows were used and left out; None if the DataModule does not report it."""
    report = getattr(data, "report", None)
    return asdict(report) if is_dataclass(report) and not isinstance(report, type) else None


def trained_prompts(data: Any) -> np.ndarray | None:
    """Returns the hashes of the prompts among the training rows; None if the DataModule does not keep its rows.

    SFT on all turns of a conversation trains on each of the user's questions in it.
    """
    rows = getattr(data, "train_rows", None)
    if not rows:
        return None
    prompts = (row.prompt for row in rows)
    every_turn = getattr(data, "loss_on", "last_response") != "last_response"
    return hashes_of(chain.from_iterable(map(questions_in, prompts)) if every_turn else prompts)


def as_json(value: Any) -> Any:
    """Returns a value in JSON types; anything else becomes text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: as_json(getattr(value, part.name)) for part in fields(value)}  # asdict copies models
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_json(item) for item in value]
    if callable(value):
        return function_name(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)
