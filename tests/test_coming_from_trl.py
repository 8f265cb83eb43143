"""The page for people who come from TRL names every field and metric that TRL had, and only options that we have."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from pathlib import Path
from typing import Any

import lightning
import pytest

from data_modules import PromptDataModule
from lit_instruct.ppo.options import SelectionOptions
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.stages.oracle_replay import replay_of

ROOT = Path(__file__).parents[1]
NAMES = json.loads((ROOT / "tests" / "oracle" / "recordings" / "names.json").read_text())
PAGE = (ROOT / "docs" / "coming-from-trl.md").read_text(encoding="utf-8")
OURS = {"model": PPOModule, "data": PromptDataModule, "trainer": lightning.Trainer}
OF_THE_COMMAND = {"run", "ckpt_path", "seed_everything"}
SECTIONS = {
    "Fields of PPOConfig": "own_fields",
    "Fields that PPOConfig inherits from TrainingArguments": "inherited_fields",
    "Metrics": "metrics",
}


def rows_of(section: str) -> list[list[str]]:
    """The cells of a section's table."""
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def quoted(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall("`([^`]+)`", text)


@pytest.mark.parametrize("section", SECTIONS)
def test_each_name_of_trl_is_there_once(section: str) -> None:
    named = [name for row in rows_of(section) for name in quoted(row[0])]
    assert sorted(named) == sorted(NAMES[SECTIONS[section]])


def test_the_best_model_has_a_counterpart() -> None:
    """TRL 1.12 measured nothing on its eval set; ours can choose by any figure of validation."""
    row = next(row for row in rows_of("Fields that PPOConfig inherits from TrainingArguments") if "load_best" in row[0])
    assert quoted(row[1]) == ["--model.selection.metric"]
    assert PPOModule("somewhere", selection=SelectionOptions("val/reward")).monitor == ("val/reward", "max")


@pytest.mark.parametrize("section", SECTIONS)
def test_what_has_no_counterpart_has_a_reason(section: str) -> None:
    for name, counterpart, remark in rows_of(section):
        assert quoted(counterpart) or (counterpart == "none" and remark), name


@pytest.mark.parametrize("option", sorted(set(re.findall("--([a-z0-9_.]+)", PAGE))))
def test_each_option_of_ours_exists(option: str) -> None:
    part, *path = option.split(".")
    if option in OF_THE_COMMAND or option == "config":
        return
    owner: Any = OURS[part]
    for name in path:
        known = names_of(owner)
        assert name in known, f"--{option}"
        owner = known[name]


def names_of(owner: Any) -> dict[str, Any]:
    """Parameters of a class, or fields of an option dataclass, with their types."""
    if dataclasses.is_dataclass(owner):
        return {field.name: None for field in dataclasses.fields(owner)}
    hints = typing.get_type_hints(owner.__init__) if owner is not lightning.Trainer else {}
    return {name: dataclass_in(hints.get(name)) for name in inspect.signature(owner).parameters}


def dataclass_in(hint: Any) -> Any:
    """The option dataclass that a type is, or may be."""
    return next((part for part in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(part)), None)


def test_each_metric_of_ours_is_logged() -> None:
    logged = replay_of("k1-1", True, True).trainer.callback_metrics
    assert set(re.findall("`((?:ppo|loss)/[a-z_]+)`", PAGE)) - {"loss/policy_avg", "loss/value_avg"} <= logged.keys()
    counterparts = [name for row in rows_of("Metrics") for name in quoted(row[1])]
    assert len(counterparts) > 10
    assert set(counterparts) <= logged.keys()
