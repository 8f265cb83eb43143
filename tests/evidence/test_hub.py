"""Comparisons of the hub as files, from a stand-in for the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from evidence import hub
from lit_instruct.errors import UserError

TURN = "\n\nHuman: {}\n\nAssistant: "
ROWS = [
    {"chosen": TURN.format("Hi") + "Hello.", "rejected": TURN.format("Hi") + "Go away."},
    {"chosen": TURN.format("Long") + "Yes. " * 400, "rejected": TURN.format("Long") + "No."},
    {"chosen": TURN.format("Bye") + "Bye.", "rejected": TURN.format("Bye") + "What?"},
    {"chosen": TURN.format("More") + "A.", "rejected": TURN.format("More") + "B."},
]


def test_the_first_short_rows_of_each_part_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, config: str | None = None, **options: Any) -> list[dict[str, str]]:
        asked.append((name, options["split"]))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for _ in range(2):  # the second call reads nothing
        hub.write(tmp_path, "hh", hub.HH_RLHF, {"training": 2, "test": 1})
    assert asked == [("Anthropic/hh-rlhf", "train"), ("Anthropic/hh-rlhf", "test")]
    found = [json.loads(line) for line in (tmp_path / "hh_training.jsonl").read_text().splitlines()]
    assert [row["responses"] for row in found] == [["Hello.", "Go away."], ["Bye.", "What?"]]
    assert found[0]["prompt"] == [{"role": "user", "content": "Hi"}] and found[0]["ranks"] == [1, 2]
    assert len((tmp_path / "hh_test.jsonl").read_text().splitlines()) == 1


def test_no_hub_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^Anthropic/hh-rlhf:train: the hub cannot be reached .*; save it as a file"):
        hub.write(tmp_path, "hh", hub.HH_RLHF, {"training": 2, "test": 1})
    assert not list(tmp_path.iterdir())
