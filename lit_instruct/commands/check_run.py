"""`lit-instruct check`: the stages of a run beside the figures that its recipe expects."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_instruct.checkout import recipes_folder, stage_command
from lit_instruct.commands.expected import (
    FILE,
    STAGES,
    Expected,
    between,
    figure_of,
    name_of,
    place_of,
    read_expected,
    read_record,
    read_yaml,
)
from lit_instruct.errors import UserError
from lit_instruct.terminal import printable

LOOK = {
    "sft": "look at the curves in {run}/sft/logs/metrics.csv",
    "rm": "look at the curves in {run}/rm/logs/metrics.csv, and at `lit-instruct rm validate`",
    "ppo": "look at the curves in {run}/ppo/logs/metrics.csv, and at the samples beside it",
    "eval": "look at the curves and samples in {run}/eval/report.html",
}
"""Where the reasons for a figure outside of its range are to be seen."""
SHOWN = 4
"""Most differing options that are listed."""


@dataclass
class CheckOptions:
    """Compares the stages of a run (sft, rm, ppo, eval) with the figures that its recipe expects, a sentence each.

    Exit code 0 if every stage that is there shows what is expected, 1 if a figure is outside of its range or was not
    measured, 2 for a mistake.
    """

    run: str = "runs/demo"
    """Run folder."""
    recipe: str | None = None
    """Recipe of the run: its name or its folder, with expected.yaml; null takes it from the name of the run folder
    (demo, demo-1) if the stages were trained on the recipe's data."""


def check(options: CheckOptions) -> bool:
    """Prints what each stage shows beside what is expected, and returns whether all that is there is as expected.

    Raises:
        UserError: there is no such run, it has no stages, no recipe can be told, the recipe expects no figures, or a
            file is damaged.
    """
    run = Path(options.run)
    if not run.is_dir():
        raise UserError(f"--run={run}: no such run folder; run `{stage_command('sft', run)}` first, or check the path")
    records = {stage: record for stage in STAGES if (record := read_record(run, stage)) is not None}
    if not records:
        raise UserError(f"--run={run}: it has none of the stages {', '.join(STAGES)}; check the path")
    recipe = _given(options.recipe) if options.recipe is not None else _of_run(run, records)
    expected = read_expected(recipe)
    print(printable(f"{run} beside {recipe / FILE}"))
    outside = 0
    for stage in STAGES:
        for line, inside in _lines(run, recipe, stage, records.get(stage), expected):
            print(printable(f"{stage}: {line}"))
            outside += not inside
    return outside == 0


def _given(name: str) -> Path:
    """The folder of a recipe that is given by name or as a folder."""
    if Path(name).is_dir():
        return Path(name)
    names = _names()
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"--recipe={name}: no such recipe or folder; {hint}the recipes are {', '.join(names)}")


def _names() -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted(recipes_folder().glob("*/sft.yaml"))}


def _of_run(run: Path, records: Mapping[str, dict[str, Any]]) -> Path:
    """The recipe that the name of a run folder means, if the stages were trained on its data."""
    name = Path(os.path.abspath(run)).name  # also of "." and of a link
    found = [own for own in _names() if name == own or name.startswith(f"{own}-")]
    if not found:
        raise UserError(f"--run={run}: this name tells no recipe; name the recipe with --recipe")
    recipe = _names()[max(found, key=len)]
    for stage, record in records.items():
        other = dict(_differing(recipe, stage, record)).get("prompts" if stage == "eval" else "data.path")
        if other is not None:
            raise UserError(
                f"--run={run}: its name means the recipe {recipe.name}, but its stage {stage} used other data "
                f"({other}); name the recipe with --recipe"
            )
    return recipe


def _lines(
    run: Path, recipe: Path, stage: str, record: dict[str, Any] | None, expected: Expected
) -> Iterator[tuple[str, bool]]:
    """What there is to say on a stage, in sentences, each with whether it is as expected."""
    figures = expected.get(stage, {})
    if record is None:
        yield "not there yet", True
        return
    if not figures:
        yield "there, but the recipe expects no figures of it", True
    strange = False
    for figure, within in figures.items():
        value, name = figure_of(record, stage, figure), name_of(stage, figure)
        place = "not measured" if value is None else place_of(value, within)
        hint = "" if place == "as expected" else f"; {LOOK[stage].format(run=run)}"
        strange = strange or bool(hint)
        yield f"{name if value is None else f'{name} {value:g}'}, expected {between(within)}: {place}{hint}", not hint
    if strange and record.get("ending"):
        yield record["ending"], True
    if differing := _differing(recipe, stage, record):
        listed = "; ".join(f"{option} is {words}" for option, words in differing[:SHOWN])
        more = f"; and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        yield f"the ranges are for the options of the recipe, and this run has others: {listed}{more}", True
    for path in _changed_data(record):
        yield f"{path} has changed since this stage was trained on it; train it again to compare", True


def _changed_data(record: Mapping[str, Any]) -> list[str]:
    """The local data of a stage whose content is no longer what it was trained on; older stages recorded none."""
    before = (record.get("data") or {}).get("content") or {}
    paths = {option: (record.get("options") or {}).get("data", {}).get(option) for option in before}
    return [
        str(path) for option, path in paths.items() if path and not _same_content(option, str(path), before[option])
    ]


def _same_content(option: str, path: str, before: str) -> bool:
    from data_modules.reading.sources import split_of
    from data_modules.tables.fingerprints import content_of, digests

    for plain_text in (True, False):  # whether text files are rows, which only folders depend on
        try:
            content = content_of(path, plain_text, split_of(option))
        except UserError:  # a file that is gone has changed too
            return False
        if content is None or digests({option: content})[option] == before:
            return True
    return False


def _differing(recipe: Path, stage: str, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The options of a recipe's file that a run recorded otherwise, with both values in words."""
    path = recipe / f"{stage}.yaml"
    theirs = _leaves(read_yaml(path)) if path.is_file() else {}
    ours = _leaves(record.get("options"))
    return [
        (name, f"{_shown(ours[name])}, in the recipe {_shown(value)}")
        for name, value in theirs.items()
        if name in ours and not _same(ours[name], value, recipe.name)
    ]


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Values by dotted name."""
    if not isinstance(value, dict):
        return {name[1:]: value}
    return {k: v for key, inner in value.items() for k, v in _leaves(inner, f"{name}.{key}").items()}


def _same(own: Any, value: Any, recipe: str) -> bool:
    """Whether a recorded value is that of the recipe's file, where 1e-3 is a text and data lies in recipes/<name>."""
    if own == value:
        return True
    try:
        return float(own) == float(value)
    except (TypeError, ValueError):
        start = f"recipes/{recipe}/"
        return str(value).startswith(start) and str(own).endswith(str(value).removeprefix(start))
