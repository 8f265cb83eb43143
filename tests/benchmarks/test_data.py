"""The benchmark of the data: its arithmetic, its prompts, and a run with so few rows that it takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import data
from benchmarks.data import STEPS, growth, make_prompts, measure
from tests.tiny import tiny_tokenizer


def test_growth() -> None:
    results = [
        {"step": step, "rows": rows, "cpu_seconds": seconds, "peak_bytes": peak}
        for step in STEPS
        for rows, seconds, peak in ((1000, 50.0, 9000), (100, 5.0, 900), (400, 1.0, 6000))
    ]
    expected = {"exponent": 1.0, "bytes_a_row": 5.0, "bytes_a_row_with_buffers": 9.0}
    assert growth(results) == dict.fromkeys(STEPS, expected)


def test_prompts_are_reproducible_and_have_what_hygiene_removes(tmp_path: Path) -> None:
    make_prompts(tmp_path / "a", 500)
    make_prompts(tmp_path / "b", 500)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    rows = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert len(rows) == 500 and len({row["prompt"] for row in rows}) == 500
    assert sum("@" in row["prompt"] for row in rows) == 10
    assert len({row["user"] for row in rows}) == 6


@pytest.mark.slow
def test_a_small_run(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    results = []
    for rows in (20_000, 60_000):
        path = tmp_path / f"{rows}.jsonl"
        make_prompts(path, rows)
        results += [measure(step, rows, path, str(tmp_path / "tokenizer")) for step in ("prepare", "again")]
    assert results[2]["removed"] == results[3]["removed"]
    assert results[2]["removed"]["shared prefix"] > 0
    assert results[3]["cpu_seconds"] < results[2]["cpu_seconds"]
    assert results[2]["peak_bytes"] - results[0]["peak_bytes"] < 25e6  # noise of the allocator; 40,000 rows are 2.6e6


def test_failing_limits_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def grows(step: str, rows: int, path: Path, tokenizer: str) -> dict[str, object]:
        return {
            "step": step,
            "rows": rows,
            "seconds": 1.0,
            "cpu_seconds": rows / 10,
            "peak_bytes": rows * 65,
            "rows_per_second": 1,
        }

    monkeypatch.setattr(data, "measure", grows)
    monkeypatch.setattr("lit_instruct.models.embedded.resolve", str)
    out = tmp_path / "data.json"
    assert data.main(["--sizes", "10", "20", "--out", str(out)]) == 1
    assert json.loads(out.read_text())["held"] is False
    monkeypatch.setattr(data, "BYTES_A_ROW", 66)
    assert data.main(["--sizes", "10", "20", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["growth"]["read"] == {
        "exponent": 1.0,
        "bytes_a_row": 65.0,
        "bytes_a_row_with_buffers": 65.0,
    }
