"""Options of a stage by dotted name, and the model that the stage starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from lit_instruct.errors import UserError
from lit_instruct.models.embedded import NAME as EMBEDDED
from lit_instruct.models.places import awaits_stage, fill_run
from lit_instruct.planning.work import Options


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Returns nested options by dotted name: a list or null is one option, an empty group is none."""
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, Mapping):
        return {key: inner for part, item in value.items() for key, inner in flat(item, f"{name}.{part}").items()}
    return {name.removeprefix("."): value}


def with_run_filled(options: Options) -> Options:
    """Returns the options with {run} in those of the model replaced by the run folder, as a stage does it."""
    run = str(options["run"])
    return {
        name: fill_run(value, run) if name.startswith("model.") and isinstance(value, str) else value
        for name, value in options.items()
    }


def base_of(options: Options, recipe: Path | None = None) -> str:
    """Returns the model whose shape a stage has: its base, or the base of an SFT stage that is not trained yet.

    Args:
        options: of the stage.
        recipe: folder with the recipe of the SFT stage.

    Raises:
        UserError: the SFT stage is neither trained nor in the recipe folder.
    """
    base = fill_run(str(options["model.base"]), str(options["run"]))
    if not awaits_stage(base, "sft"):
        return base
    file = recipe / "sft.yaml" if recipe is not None else None
    if file is None:
        return EMBEDDED
    if not file.is_file():
        raise UserError(f"--model.base={base}: no such folder, and no {file} that names its base; give another")
    given = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return str((given.get("model") or {}).get("base", EMBEDDED))
