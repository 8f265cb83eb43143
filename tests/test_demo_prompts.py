"""Checks the committed demo prompts against what recipes/demo/data/README.md promises about them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import load_script

DEMO = Path(__file__).resolve().parents[1] / "recipes" / "demo"
SCRIPT = DEMO / "make_prompts.py"
SPLITS = ("train", "validation")
WITH_PASSAGE = {"rewrite", "summarization", "closed_qa", "extract"}


@cache
def script() -> ModuleType:
    return load_script(SCRIPT)


@cache
def load_rows(split: str) -> tuple[dict[str, str], ...]:
    lines = (DEMO / "data" / f"prompts_{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


def all_rows() -> list[dict[str, str]]:
    return [row for split in SPLITS for row in load_rows(split)]


def test_rows_have_the_four_text_fields() -> None:
    for row in all_rows():
        assert list(row) == ["prompt", "user", "use_case", "template"]
        assert all(isinstance(value, str) and value == value.strip() and value for value in row.values())
        assert row["template"].startswith(row["use_case"] + "/")


def test_counts() -> None:
    train, validation = len(load_rows("train")), len(load_rows("validation"))
    assert 1250 <= train + validation <= 1400
    assert 190 <= validation <= 210
    assert validation / (train + validation) == pytest.approx(0.15, abs=0.01)


def test_prompts_are_distinct() -> None:
    normalise = script().normalise
    counts = Counter(normalise(row["prompt"]) for row in all_rows())
    assert [text for text, count in counts.items() if count > 1] == []


def test_templates_are_many_and_small() -> None:
    counts = Counter(row["template"] for row in all_rows())
    assert len(counts) >= 140
    assert sum(name.startswith("generation/") for name in counts) >= 60
    assert max(counts.values()) <= 10


@pytest.mark.parametrize(("rows_of", "tolerance"), [("all", 0.06), ("train", 0.5), ("validation", 1.0)])
def test_use_cases_follow_table_1(rows_of: str, tolerance: float) -> None:
    rows = all_rows() if rows_of == "all" else list(load_rows(rows_of))
    percent = script().USE_CASE_PERCENT
    counts = Counter(row["use_case"] for row in rows)
    assert set(counts) == set(percent)
    for use_case, wanted in percent.items():
        # The table's percentages add up to 99.9, hence 0.05 more than rounding to whole prompts would need.
        assert 100 * counts[use_case] / len(rows) == pytest.approx(wanted, abs=tolerance + 0.05)


def test_prompts_that_work_on_a_text_carry_it() -> None:
    passages = script().read_passages()
    for text in passages.values():
        assert 25 <= len(text.split()) <= 60
    uses: Counter[str] = Counter()
    for row in all_rows():
        carried = [key for key, text in passages.items() if text in row["prompt"]]
        assert len(carried) == (1 if row["use_case"] in WITH_PASSAGE else 0), row["prompt"]
        uses.update(carried)
    assert max(uses.values()) <= 3


def test_prompts_are_short_and_filled_in() -> None:
    lengths = [len(row["prompt"].split()) for row in all_rows()]
    assert min(lengths) >= 4
    assert max(lengths) <= 95
    assert sum(8 <= length <= 40 for length in lengths) > 0.75 * len(lengths)
    for row in all_rows():
        assert not any(left in row["prompt"] for left in ("{", "}", "|", "  ", "\\n", "\r", "\t"))
        assert row["prompt"].isprintable() or "\n" in row["prompt"]


def test_users() -> None:
    users = {split: {row["user"] for row in load_rows(split)} for split in SPLITS}
    assert not users["train"] & users["validation"]
    counts = Counter(row["user"] for row in all_rows())
    assert 55 <= len(counts) <= 65
    assert max(counts.values()) <= 60
    assert max(counts.values()) >= 5 * min(counts.values())  # unequal activity
    for user in counts:
        assert len({row["use_case"] for row in all_rows() if row["user"] == user}) >= 2


def test_rows_are_shuffled() -> None:
    for split in SPLITS:
        rows = load_rows(split)
        same = sum(a["template"] == b["template"] or a["user"] == b["user"] for a, b in pairwise(rows))
        assert same < 0.25 * len(rows)


def test_script_reproduces_the_committed_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SCRIPT), "--out", str(tmp_path)], check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"prompts_{split}.jsonl" for split in sorted(SPLITS)]
    for split in SPLITS:
        name = f"prompts_{split}.jsonl"
        assert (tmp_path / name).read_bytes() == (DEMO / "data" / name).read_bytes()


def test_pretraining_text_is_prose_in_paragraphs() -> None:
    text = (DEMO / "data" / "pretraining.txt").read_text(encoding="utf-8")
    assert len(text.encode("utf-8")) >= 45_000
    assert text.endswith("\n") and not text.endswith("\n\n") and "\n\n\n" not in text
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs) >= 80
    assert all(len(paragraph.split()) >= 20 and paragraph[-1] in '.?!"' for paragraph in paragraphs)
    sentences = Counter(sentence.strip() for paragraph in paragraphs for sentence in paragraph.split(". "))
    assert max(sentences.values()) <= 2  # written, not stamped out
    prompts = {row["prompt"] for row in all_rows()}
    assert not any(prompt in text for prompt in prompts)


def test_data_card_states_the_counts() -> None:
    card = (DEMO / "data" / "README.md").read_text(encoding="utf-8")
    for split in SPLITS:
        rows = load_rows(split)
        assert f"{len(rows):,} rows, {len({row['user'] for row in rows})} users" in card
    text = (DEMO / "data" / "pretraining.txt").read_text(encoding="utf-8")
    paragraphs = len(text.split("\n\n"))
    assert f"{paragraphs} paragraphs, {len(text.split()):,} words" in card
