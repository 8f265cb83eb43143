"""The pages for people who come from OpenRLHF and LLaMA-Factory name each of their options once."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import lightning
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"coming-from-openrlhf": "openrlhf", "coming-from-llama-factory": "llama_factory"}


def page_of(name: str) -> str:
    """The text of a page."""
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def rows_of(page: str) -> list[list[str]]:
    """The cells of the tables with three columns, which map options."""
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    return [cells for line in lines if len(cells := [c.strip() for c in line[1:-1].split("|")]) == 3]


def quoted(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall("`([^`]+)`", text)


@pytest.mark.parametrize("name", SOURCES)
def test_each_of_their_options_is_there_once(name: str) -> None:
    theirs = json.loads((ROOT / "tests/coming_from" / f"{SOURCES[name]}.json").read_text(encoding="utf-8"))
    named = [option for row in rows_of(page_of(name)) for option in quoted(row[0])]
    assert sorted(named) == sorted(theirs["names"])
    version, commit = re.match(r"\S+ (\S+) \((\w+)\)", theirs["source"]).groups()  # type: ignore[union-attr]
    assert version in page_of(name) and commit in page_of(name)


@pytest.mark.parametrize("name", SOURCES)
def test_each_has_a_counterpart_or_none(name: str) -> None:
    for option, counterpart, _ in rows_of(page_of(name)):
        assert counterpart == "none" or all(word.startswith("--") for word in quoted(counterpart)), option


@pytest.mark.parametrize("name", SOURCES)
def test_each_option_of_the_trainer_exists(name: str) -> None:
    given = set(re.findall(r"--trainer\.(\w+)", page_of(name)))
    assert given and given <= inspect.signature(lightning.Trainer).parameters.keys()
