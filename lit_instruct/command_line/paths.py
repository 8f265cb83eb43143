"""Paths on the command line and in config files that do not exist, before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_modules.reading.folders import find_folder
from data_modules.reading.readers import hub_id
from data_modules.reading.sources import parse_sources
from lit_instruct.checkout import stage_command
from lit_instruct.command_line.given import Given
from lit_instruct.command_line.stored import STAGES, Command
from lit_instruct.errors import UserError
from lit_instruct.files import expand_home
from lit_instruct.hub import offline_without_network
from lit_instruct.models.places import check_place, check_stage_place, fill_run, is_path

ROWS = ("data.path", "data.validation_path", "data.demonstrations_path", "path", "prompts")
"""Options that name files, folders or datasets of rows."""
MODELS = {"chat": ("run", "compare"), "sample": ("run",), "export": ("run",), "rm score": ("run",), "rank": ("run",)}
"""Options of the other commands that name a model."""
WORDS = ("last", "best", "hpc", "registry")
"""Values of --ckpt_path that are no paths."""


def check_paths(command: Command, given: Sequence[Given]) -> None:
    """Refuses paths that do not exist; what only the libraries can know is left to them.

    Args:
        command: such as "ppo fit".
        given: its options.

    Raises:
        UserError: it names the path.
    """
    values = {option.name: _default(option.help) for option in command.options}
    values |= {one.name: one.value for one in given}
    values = {name: expand_home(value) if value else value for name, value in values.items()}
    stage = command.name.split()[0]
    if stage == "plan":
        return
    for name in ROWS:
        if (value := values.get(name)) is not None and value != "null":
            _check_rows(value)
    if command.name in MODELS:
        for name in MODELS[command.name]:
            _check_model(values.get(name), command.name)
    elif stage in STAGES:
        _check_stage(stage, values)
    elif command.name == "eval":
        _check_run(values, given)


def _default(text: str) -> str | None:
    """The default of a path option, as its help gives it; None for one that is not needed here."""
    found = re.search(r"default: ((?:\{run\}|runs)/[\w/-]+)\)", text)
    return found[1] if found is not None else None


def _check_rows(value: str) -> None:
    for source in parse_sources(value):
        if hub_id(source.path) is not None:
            offline_without_network()
        elif find_folder(source.path) is None and not Path(source.path).exists():
            near = "check the path, or give a hub id with its split, org/name:train"
            raise UserError(f"{source.path}: no such file; {near}")


def _check_model(name: str | None, command: str) -> None:
    if name is None or not is_path(name) or Path(name).expanduser().is_dir():
        return
    if Path(name).name in STAGES:
        check_stage_place(name, Path(name).name, command)
    check_place(name)


def _check_stage(stage: str, values: Mapping[str, str | None]) -> None:
    run = values.get("run") or "runs/demo"
    if "model" not in values or values["model"] is None:  # else in a file of its own
        base, reward = values.get("model.base"), values.get("model.reward.model")
        if base is not None and stage != "sft":
            check_stage_place(fill_run(base, run), "sft", stage)
        elif base is not None:
            check_place(fill_run(base, run))
        if reward is not None and not values.get("model.reward.function") and not values.get("model.reward"):
            for member in fill_run(reward, run).split(","):
                check_stage_place(member, "rm", stage)
    path = values.get("ckpt_path")
    if path not in (None, *WORDS) and not list(Path(path).parent.glob(f"{Path(path).stem}*")):
        raise UserError(f"--ckpt_path={path}: no such checkpoint; give one of this stage, or last")


def _check_run(values: Mapping[str, str | None], given: Sequence[Given]) -> None:
    run = values.get("run") or "runs/demo"
    if not Path(run).is_dir() and not any(one.name.startswith("systems") for one in given):
        raise UserError(f"--run={run}: no such run folder; run `{stage_command('sft', run)}` first, or check the path")
