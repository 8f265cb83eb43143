"""Names of models as the user gives them: folders, stages of a run, hub ids; nothing is opened or imported for them."""

from __future__ import annotations

from pathlib import Path

from lit_instruct.checkout import stage_command
from lit_instruct.errors import UserError

RUN = "{run}"
"""Stands for the run folder in options of the model, such as --model.base={run}/sft."""
CONFIGS = ("adapter_config.json", "config.json")
"""Files of which a model's folder has one."""


def is_path(name: str) -> bool:
    """Tells whether a name can only be a path, not a hub id."""
    return name.startswith((".", "/", "~", "runs/")) or name.count("/") > 1


def fill_run(value: str, run: str) -> str:
    """Returns an option with {run} replaced by the run folder; a new one gets ./ so that it is not read as a hub id."""
    return value.replace(RUN, run if "/" in run or Path(run).is_dir() else f"./{run}")


def awaits_stage(name: str, stage: str) -> bool:
    """Tells whether a name is the folder of a stage in a run, such as {run}/sft, with no model in it yet."""
    path = Path(name).expanduser()
    if path.name != stage or any((path / file).is_file() for file in CONFIGS):
        return False
    return is_path(name) or RUN in name or (len(path.parts) > 1 and path.parent.is_dir())


def check_place(name: str) -> None:
    """Refuses a folder that is missing or holds no model.

    Raises:
        UserError: it says what to give.
    """
    if RUN in name:
        raise UserError(
            f'{name}: {RUN} is the folder of --run on the command line; in Python give the module base="runs/demo/sft" '
            'and PPO reward=RewardOptions(model="runs/demo/rm"), or other models by folder or hub id'
        )
    folder = Path(name).expanduser()
    if any((folder / file).is_file() for file in CONFIGS):
        return
    if folder.is_dir():
        raise UserError(f"{name}: no model in this folder (no config.json or adapter_config.json); give another")
    if is_path(name):
        raise UserError(f"{name}: no such folder; check the path, or give a hub id")


def check_stage_place(name: str, stage: str, wanted_by: str) -> None:
    """Refuses the folder of a stage that has not run, and what `check_place` refuses.

    Args:
        name: of a model.
        stage: the stage that makes it by default.
        wanted_by: the stage that needs it, for the message.

    Raises:
        UserError: it gives the command that makes the model.
    """
    if RUN not in name and awaits_stage(name, stage):
        command = stage_command(stage, Path(name).parent)
        raise UserError(
            f"{wanted_by}: no {stage} model in {name}; run `{command}` first, or name another with an option of "
            f"`lit-instruct {wanted_by}`"
        )
    check_place(name)
