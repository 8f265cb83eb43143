"""Small files in the layouts of the hub's datasets, in place of these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evidence import hub, imdb

PLACES = ("France", "Paris", "the garden", "the sea", "the house")
LABELS = {0: "NEGATIVE", 1: "POSITIVE"}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """Writes JSON lines and returns the path as text."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def dialogue(number: int, answer: str, turns: int = 1) -> str:
    """A conversation as HH-RLHF has it."""
    earlier = "\n\nHuman: Hello.\n\nAssistant: Hi." * (turns - 1)
    place = PLACES[number % len(PLACES)]
    return f"{earlier}\n\nHuman: What is the weather in {place} on day {number}?\n\nAssistant: {answer}"


def hh_rlhf(count: int) -> list[dict[str, Any]]:
    """Every fourth row has two questions."""
    return [
        {
            "chosen": dialogue(number, f"The weather is wonderful {number}.", 2 if number % 4 == 3 else 1),
            "rejected": dialogue(number, "Go away.", 2 if number % 4 == 3 else 1),
        }
        for number in range(count)
    ]


def tldr(count: int, workers: int = 10) -> list[dict[str, Any]]:
    """Comparisons of summaries by several people; each post is compared twice."""
    return [
        {
            "info": {
                "id": f"t3_{number // 2}",
                "post": f"I counted to {number // 2} in the garden.",
                "title": "Numbers",
            },
            "summaries": [{"text": f" Counted to {number // 2}."}, {"text": " The cat."}],
            "choice": int(number % 3 == 0),
            "worker": f"w{number % workers}",
            "split": "train",
        }
        for number in range(count)
    ]


def toxic(count: int) -> list[dict[str, Any]]:
    """Prompts, every second of which is toxic, one of them very short."""
    rows = [
        {
            "filename": "a.txt",
            "challenging": False,
            "prompt": {
                "text": f"The man at the door number {number} said that you",
                "toxicity": 0.9 - 0.8 * (number % 2),
            },
            "continuation": {"text": " are late.", "toxicity": None},
        }
        for number in range(count)
    ]
    return [*rows, {"prompt": {"text": "You", "toxicity": 0.9}}, {"prompt": {"text": "x" * 50, "toxicity": None}}]


def truthful(count: int) -> list[dict[str, Any]]:
    """Questions with one true answer; one has two, and is left out."""
    rows = [
        {
            "question": f"What is the capital of France in year {number}?",
            "mc1_targets": {"choices": ["Paris", "The sea", "The cat"], "labels": [1, 0, 0]},
            "mc2_targets": {"choices": ["Paris", "The sea"], "labels": [1, 0]},
        }
        for number in range(count)
    ]
    return [*rows, {"question": "Which?", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}}]


def reviews(count: int) -> list[dict[str, Any]]:
    """Reviews whose words tell their label."""
    words = ("The garden is a mat and the list of numbers", "The weather is wonderful and the children are happy")
    return [{"text": f"{words[n % 2]} in {PLACES[n % 5]} {n}. " * 6, "label": n % 2} for n in range(count)]


@pytest.fixture
def hub_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Local files in place of the hub; returns their folder."""
    folder = tmp_path / "hub"
    folder.mkdir()
    made = {"training": hh_rlhf(80), "test": hh_rlhf(60)}
    monkeypatch.setattr(hub, "HH_RLHF", {part: write(folder / f"hh-{part}.jsonl", rows) for part, rows in made.items()})
    monkeypatch.setattr(hub, "TLDR", write(folder / "tldr.jsonl", tldr(120)))
    monkeypatch.setattr(hub, "TOXICITY", write(folder / "toxic.jsonl", toxic(20)))
    monkeypatch.setattr(hub, "TRUTHFULQA", write(folder / "truthful.jsonl", truthful(8)))
    own = {part: write(folder / f"imdb-{part}.jsonl", reviews(40)) for part in ("train", "test")}
    monkeypatch.setattr(imdb, "REVIEWS", own)
    return folder
