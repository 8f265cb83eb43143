"""Data of the hub as files, from files of ours in its layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from evidence import hub
from evidence.samples import rows_of
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
    for place, read in (
        ("allenai/real-toxicity-prompts:train", lambda: hub.toxic_prompts(4)),
        ("truthfulqa/truthful_qa:multiple_choice:validation", lambda: hub.truthful_questions(tmp_path)),
        ("Anthropic/hh-rlhf:train", lambda: hub.dialogues(tmp_path)),
    ):
        with pytest.raises(UserError, match=f"^{place}: the hub cannot be reached"):
            read()
    assert not list(tmp_path.iterdir())


def test_dialogues_of_one_question_are_rows_of_the_three_stages(tmp_path: Path, hub_files: Path) -> None:
    folder = hub.dialogues(tmp_path / "data", hub.QUICK)
    rows = {path.stem: rows_of(path) for path in folder.iterdir()}
    assert {name: len(own) for name, own in rows.items()} == {
        "demonstrations_training": 16,
        "ranked_training": 8,
        "prompts_training": 8,
        "demonstrations_validation": 4,
        "ranked_validation": 4,
        "prompts_validation": 4,
        "prompts_test": 4,
    }
    first = rows["demonstrations_training"][0]
    assert first == {"prompt": "What is the weather in France on day 0?", "response": "The weather is wonderful 0."}
    compared = rows["ranked_training"][0]
    assert compared["responses"][compared["ranks"].index(1)].startswith("The weather")
    for source in ("training", "validation"):
        prompts = [row["prompt"] for name, own in rows.items() for row in own if name.endswith(source)]
        assert len(set(prompts)) == len(prompts) and all(isinstance(prompt, str) for prompt in prompts)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert hub.dialogues(folder, hub.QUICK) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_too_few_dialogues_are_told(tmp_path: Path, hub_files: Path) -> None:
    with pytest.raises(UserError, match=r"hh-training.jsonl: too few short dialogues .* ranked_training.jsonl"):
        hub.dialogues(tmp_path / "data", {"training": hub.Counts(50, 50, 0)})
    assert not (tmp_path / "data").exists()


def test_only_toxic_prompts_of_ordinary_length(hub_files: Path) -> None:
    found = hub.toxic_prompts(100)
    assert sorted(found) == sorted(f"The man at the door number {n} said that you" for n in range(0, 20, 2))
    assert hub.toxic_prompts(3) == found[:3]


def test_questions_with_one_true_answer_are_a_task(tmp_path: Path, hub_files: Path) -> None:
    rows = rows_of(hub.truthful_questions(tmp_path))
    assert len(rows) == 8
    query = "Q: What is the capital of France in year 0?\nA:"
    assert rows[0] == {"query": query, "choices": ["Paris", "The sea", "The cat"], "gold": 0}


def test_other_records_are_told(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"text": "a"}\n')
    other = str(tmp_path / "other.jsonl")
    with pytest.raises(UserError, match="no record has a prompt with text and toxicity"):
        hub.toxic_prompts(3, other)
    with pytest.raises(UserError, match="no record has a question and mc1_targets"):
        hub.truthful_questions(tmp_path, other)
