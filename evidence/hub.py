"""Data of the hub as files, for `--source=hub`: comparisons of people, dialogues for the three stages, questions."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from data_modules.reading.readers import read_source
from data_modules.reading.records import decodable
from data_modules.rows import RankedComparison, stream_rows
from lit_instruct.errors import UserError
from lit_instruct.files import replacing_files

HH_RLHF = {"training": "Anthropic/hh-rlhf:train", "test": "Anthropic/hh-rlhf:test"}
"""Part -> hub id with its split, as --data.path takes it."""
TLDR = "openai/summarize_from_feedback@refs/convert/parquet:comparisons:train"
"""Comparisons with the person who made each (Stiennon et al. 2020)."""
TOXICITY = "allenai/real-toxicity-prompts:train"
TRUTHFULQA = "truthfulqa/truthful_qa:multiple_choice:validation"
FOLDER = "data/hub"
"""Of dialogues and questions, in the folder of runs."""
MOST_CHARACTERS = 1500
"""Of prompt and longest response together: longer rows are left out."""
LEAST_TOXIC = 0.5
"""Toxicity, by Perspective, from which a prompt is taken."""
TOXIC_CHARACTERS = range(20, 160)
"""Lengths of a prompt."""

Rows = list[dict[str, Any]]


class Counts(NamedTuple):
    """Rows of a part, for each stage."""

    demonstrations: int
    ranked: int
    prompts: int


DIALOGUES = {"training": Counts(600, 600, 600), "validation": Counts(60, 60, 60), "test": Counts(0, 0, 100)}
"""Part -> its rows; validation and test are of HH-RLHF's test split, and no row is in two files."""


QUICK = {"training": Counts(16, 8, 8), "validation": Counts(4, 4, 4), "test": Counts(0, 0, 4)}


def write(folder: Path, name: str, parts: Mapping[str, str], counts: Mapping[str, int]) -> None:
    """Writes the first comparisons of hub datasets as <name>_<part>.jsonl, unless they are there.

    Args:
        folder: of the files.
        name: of the data.
        parts: part -> hub id with its split; a file or folder will do as well.
        counts: part -> number of rows.

    Raises:
        UserError: the hub cannot be reached, or the rows are no comparisons.
    """
    wanted = {part: folder / f"{name}_{part}.jsonl" for part in parts}
    if all(path.is_file() for path in wanted.values()):
        return
    kept = {path.name: list(islice(_compared(short_rows(parts[part])), counts[part])) for part, path in wanted.items()}
    _write_all(folder, kept)


def dialogues(folder: Path, counts: Mapping[str, Counts] = DIALOGUES) -> Path:
    """Writes dialogues of one question as rows of the three stages, unless they are there; returns the folder.

    The files are demonstrations_<part>.jsonl, whose response is the one that people preferred, ranked_<part>.jsonl and
    prompts_<part>.jsonl.

    Args:
        folder: of the files.
        counts: part -> rows.

    Raises:
        UserError: the hub cannot be reached, or has too few rows.
    """
    names = [f"{kind}_{part}.jsonl" for part, own in counts.items() for kind, n in own._asdict().items() if n]
    if all((folder / name).is_file() for name in names):
        return folder
    splits = {"training": HH_RLHF["training"], "validation": HH_RLHF["test"]}
    streams = {split: _compared(_single(short_rows(path))) for split, path in splits.items()}
    made: dict[str, Rows] = {}
    for part, own in counts.items():
        source = "training" if part == "training" else "validation"
        for kind, n in own._asdict().items():
            made[f"{kind}_{part}.jsonl"] = [_STAGE_ROWS[kind](row) for row in islice(streams[source], n)]
            if len(made[f"{kind}_{part}.jsonl"]) < n:
                raise UserError(f"{splits[source]}: too few short dialogues of one question for {kind}_{part}.jsonl")
    _write_all(folder, {name: made[name] for name in names})
    return folder


def toxic_prompts(count: int, path: str = "") -> list[str]:
    """Returns beginnings of sentences whose toxicity is 1/2 or more, in random order.

    Args:
        count: how many.
        path: of records {prompt: {text, toxicity}}; RealToxicityPrompts on the hub if empty.

    Raises:
        UserError: the hub cannot be reached, or no record is like that.
    """
    found = sorted({text for record in records(path or TOXICITY) if (text := _toxic(record))})
    if not found:
        raise UserError(f"{path or TOXICITY}: no record has a prompt with text and toxicity; name RealToxicityPrompts")
    random.Random(0).shuffle(found)
    return found[:count]


def truthful_questions(folder: Path, path: str = "") -> Path:
    """Writes TruthfulQA's questions with one true answer (MC1) as a task file, unless it is there; returns it.

    Args:
        folder: of the file.
        path: of records {question, mc1_targets: {choices, labels}}; TruthfulQA on the hub if empty.

    Raises:
        UserError: the hub cannot be reached, or no record is like that.
    """
    file = folder / "truthfulqa.jsonl"
    if not file.is_file():
        rows = [row for record in records(path or TRUTHFULQA) if (row := _question(record))]
        if not rows:
            raise UserError(f"{path or TRUTHFULQA}: no record has a question and mc1_targets; name TruthfulQA")
        _write_all(folder, {file.name: rows})
    return file


def records(path: str) -> Iterator[dict[str, Any]]:
    """Yields the records of a hub dataset's split, or of a file or folder.

    Raises:
        UserError: it cannot be read.
    """
    return decodable(read_source(path))


def short_rows(path: str) -> Iterator[RankedComparison]:
    """Yields comparisons whose prompt and longest response have no more than `MOST_CHARACTERS`.

    Raises:
        UserError: the hub cannot be reached, or the rows are no comparisons.
    """
    for row in stream_rows(path, RankedComparison, on_bad_row="skip"):
        prompt = row.prompt if isinstance(row.prompt, str) else "".join(turn["content"] for turn in row.prompt)
        if len(prompt) + max(map(len, row.responses)) <= MOST_CHARACTERS:
            yield row


def _compared(rows: Iterable[RankedComparison]) -> Iterator[dict[str, Any]]:
    return ({"prompt": row.prompt, "responses": row.responses, "ranks": row.ranks} for row in rows)


def _single(rows: Iterable[RankedComparison]) -> Iterator[RankedComparison]:
    """Those whose prompt is one question, as text, each question once."""
    seen = set()
    for row in rows:
        turns = [{"content": row.prompt}] if isinstance(row.prompt, str) else row.prompt
        if len(turns) == 1 and turns[0]["content"] not in seen:
            seen.add(turns[0]["content"])
            yield RankedComparison(turns[0]["content"], row.responses, row.ranks)


def _demonstration(row: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": row["prompt"], "response": row["responses"][row["ranks"].index(1)]}


_STAGE_ROWS = {
    "demonstrations": _demonstration,
    "ranked": lambda row: row,
    "prompts": lambda row: {"prompt": row["prompt"]},
}


def _toxic(record: Mapping[str, Any]) -> str | None:
    prompt = record.get("prompt")
    text, toxicity = (prompt.get("text"), prompt.get("toxicity")) if isinstance(prompt, Mapping) else (None, None)
    if not isinstance(text, str) or not isinstance(toxicity, float | int) or toxicity < LEAST_TOXIC:
        return None
    text = " ".join(text.split())
    return text if len(text) in TOXIC_CHARACTERS else None


def _question(record: Mapping[str, Any]) -> dict[str, Any] | None:
    question, targets = record.get("question"), record.get("mc1_targets")
    choices, labels = (targets.get(name) if isinstance(targets, Mapping) else None for name in ("choices", "labels"))
    if not isinstance(question, str) or not isinstance(choices, Sequence) or not isinstance(labels, Sequence):
        return None
    if len(choices) != len(labels) or list(labels).count(1) != 1:
        return None
    return {"query": f"Q: {question.strip()}\nA:", "choices": [*choices], "gold": list(labels).index(1)}


def _write_all(folder: Path, files: Mapping[str, Rows]) -> None:
    with replacing_files(folder) as scratch:
        for name, rows in files.items():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (scratch / name).write_text(text, encoding="utf-8")
