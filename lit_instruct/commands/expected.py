"""The figures that each stage of a recipe must show: recipes/<name>/expected.yaml, beside what a run shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lit_instruct.errors import UserError
from lit_instruct.files import READY
from lit_instruct.json_types import fits, wrong_values

FILE = "expected.yaml"
STAGES = ("sft", "rm", "ppo", "eval")
RECORDS = {"sft": "stage.json", "rm": "stage.json", "ppo": "stage.json", "eval": "report.json"}
"""Stage -> file in its folder that has its figures."""
NAMES = {
    "sft": {"val/loss": "validation loss"},
    "rm": {"val/pair_accuracy": "pair accuracy"},
    "ppo": {"val/reward": "validation reward", "val/kl": "validation KL in nats"},
    "eval": {
        "labeler.sft.mean": "labeler score of SFT",
        "labeler.ppo_minus_sft.mean": "labeler score, PPO minus SFT",
        "kl.ppo.mean": "KL of PPO to SFT in nats",
        "distinct_2.ppo_over_sft": "distinct-2, PPO over SFT",
    },
}
"""Stage -> figure -> its name for people; any other figure is called as it is."""
DIGITS = 3
"""Decimals of a figure: it is compared as it is printed."""


class Range(NamedTuple):
    """Where a figure is expected, both ends included."""

    low: float
    high: float


Expected = dict[str, dict[str, Range]]
"""Stage -> figure -> range. A figure is a metric in stage.json, for eval a dotted path in report.json."""


def read_expected(recipe: Path) -> Expected:
    """Returns the figures that a recipe expects.

    Args:
        recipe: its folder.

    Raises:
        UserError: it expects none, or the file is damaged.
    """
    path = recipe / FILE
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such file: no run of this recipe has been measured, so no figures are expected"
        )
    record = read_yaml(path)
    if wrong := [name for name in record if name not in STAGES]:
        raise UserError(f"{path}: {wrong[0]} is no stage; the stages are {', '.join(STAGES)}")
    expected: Expected = {}
    for stage, figures in record.items():
        if not isinstance(figures, dict):
            raise UserError(f"{path}: {stage}: give figures with their ranges, such as val/loss: [1.0, 1.2]")
        expected[stage] = {str(name): _range(path, f"{stage}: {name}", value) for name, value in figures.items()}
    if not any(expected.values()):
        raise UserError(f"{path}: there are no figures in it")
    return expected


def _range(path: Path, name: str, value: Any) -> Range:
    if not isinstance(value, list) or len(value) != 2 or not all(fits(end, float) for end in value):
        raise UserError(f"{path}: {name}: give two numbers, such as [1.0, 1.2]")
    low, high = value
    if not low <= high:
        raise UserError(f"{path}: {name}: {low} is not below {high}; give the lower end first")
    return Range(low, high)


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the content of a YAML file of names and values.

    Raises:
        UserError: it is none.
    """
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())}); restore this file of the recipe") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}: damaged (no names with values); restore this file of the recipe")
    return record


def read_record(run: Path, stage: str) -> dict[str, Any] | None:
    """Returns what a stage recorded, or None if it is not there yet.

    Args:
        run: folder of the run.
        stage: sft, rm, ppo or eval.

    Raises:
        UserError: the record is damaged, is of another stage, or is just being replaced.
    """
    folder = run / stage
    path = folder / RECORDS[stage]
    if (folder / READY).is_dir():
        raise UserError(f"{folder}: a run is replacing this result, or was killed while it did; run that stage again")
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); run that stage again") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}: damaged (no JSON object); run that stage again")
    if stage != "eval":
        found = {"metrics": None} | record
        wrong = wrong_values(found, {"metrics": dict[str, float], "ending": str | None})
        if wrong:
            raise UserError(f"{path}: damaged ({wrong[0]}); run that stage again")
        if record.get("stage") != stage:
            raise UserError(f"{path}: made by the stage {record.get('stage')!r}, not by {stage}; check --run")
    return record


def figure_of(record: Mapping[str, Any], stage: str, figure: str) -> float | None:
    """Returns a figure of a stage's record; None if it was not measured.

    Args:
        record: of `read_record`.
        stage: sft, rm, ppo or eval.
        figure: a metric, for eval a dotted path.
    """
    value = value_at(record, figure) if stage == "eval" else record["metrics"].get(figure)
    return round(value, DIGITS) + 0.0 if fits(value, float) else None


def value_at(record: Mapping[str, Any], place: str) -> Any:
    """Returns the value at a dotted path; None if there is none."""
    value: Any = record
    for key in place.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def place_of(value: float, within: Range) -> str:
    """Returns "as expected", "below" or "above"."""
    return "below" if value < within.low else "above" if value > within.high else "as expected"


def name_of(stage: str, figure: str) -> str:
    """Returns the name of a figure for people."""
    return NAMES[stage].get(figure, figure)


def between(within: Range) -> str:
    """Returns a range in words, such as "0.68 to 0.8"."""
    return f"{within.low:g} to {within.high:g}"
