"""The report on a reward model: its figures by hand, and a page that is safe and self-contained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from data_modules.rows import RankedComparison
from lit_instruct.evaluation import reward_report
from lit_instruct.evaluation.reward_report import Demonstrations, validation_report, write_report

SCRIPT = "<script>alert(1)</script>"
ROWS = [
    RankedComparison("a", ["x", "y"], [1, 2], extra={"use_case": SCRIPT, "labeler": 7}),
    RankedComparison("b", ["x", "y", "z"], [2, 1, 2], extra={"use_case": "[/bold]$x$", "labeler": 12}),
    RankedComparison("c", ["x", "y"], [2, 1], extra={"subset": "hep-go"}),
]
REWARDS = [[1.0, 0.0], [0.0, 2.0, 3.0], [0.5, 0.5]]
LENGTHS = [[5, 3], [2, 2, 8], [4, 1]]
ORIGIN = {"base": SCRIPT, "checkpoint": "best.ckpt", "data": "rows.jsonl", "loss": 0.5}


@pytest.fixture
def report() -> dict[str, Any]:
    return validation_report(ROWS, REWARDS, LENGTHS, Demonstrations([1.0, 2.0], -1.5))


def test_figures_by_hand(report: dict[str, Any]) -> None:
    assert (report["rows"], report["responses"], report["pairs"]) == (3, 7, 4)
    assert report["pair_accuracy"]["value"] == 0.5  # 1 of 1, 1 of 2, and a tie, which is no order
    shares = {
        name: {key: (one["value"], one["pairs"], one["rows"]) for key, one in report[name].items()}
        for name in ("by_k", "by_rank_distance", "by_use_case", "by_labeler", "by_subset")
    }
    assert shares["by_k"] == {"2": (0.5, 2, 2), "3": (0.5, 2, 1)}
    assert shares["by_rank_distance"] == {"1": (0.5, 4, 3)}
    assert shares["by_use_case"] == {SCRIPT: (1.0, 1, 1), "[/bold]$x$": (0.5, 2, 1)}
    assert shares["by_labeler"] == {"7": (1.0, 1, 1), "12": (0.5, 2, 1)}
    assert shares["by_subset"] == {"hep-go": (0.0, 1, 1)}
    assert sum(one["pairs"] for one in report["calibration"]["bins"]) == 4
    assert report["length"]["longer_preferred_by_labeler"] == pytest.approx(1 / 3, abs=1e-6)
    assert report["demonstrations"] == {
        "count": 2,
        "mean_before_bias": 1.5,
        "bias": -1.5,
        "mean_after_bias": 0.0,
    }


def test_rows_without_names_make_no_groups() -> None:
    report = validation_report(ROWS[2:], REWARDS[2:], LENGTHS[2:], None)
    assert report["by_use_case"] == report["by_labeler"] == {}
    assert report["demonstrations"] is None


def test_files(report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(tmp_path / "demo/rm", report, ORIGIN, REWARDS, LENGTHS)
    folder = tmp_path / "demo/rm"
    assert sorted(path.name for path in folder.iterdir()) == ["validation.html", "validation.json"]
    written = json.loads((folder / "validation.json").read_text())
    assert report.items() <= written.items()
    assert written["loss"] == 0.5
    assert {"machine", "versions", "date"} <= written.keys()
    printed = capsys.readouterr().out
    assert "use case: [/bold]$x$" in printed
    assert "+1.50 before the bias, 0.00 after it" in printed


def test_the_page_is_safe_and_loads_nothing(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(tmp_path / "de<b>mo/rm", report, ORIGIN, REWARDS, LENGTHS)
    page = (tmp_path / "de<b>mo/rm/validation.html").read_text()
    assert "<script" not in page.lower()
    assert "<b>mo" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 1  # the base; shortened in the chart
    assert "[/bold]$x$ (2)" in page
    assert page.count("<svg") == 7
    assert "default-src 'none'" in page
    assert not re.search(r"\b(src|href)\s*=\s*[\"'](?!#)", page)
    assert not re.search(r"url\((?!#)", page)
    for text in ("Calibration and length", "rank distance", "labeler", "prefers-color-scheme"):
        assert text in page


def test_many_groups_show_the_largest(report: dict[str, Any]) -> None:
    many = {f"case {i:02}": {**report["pair_accuracy"], "pairs": i} for i in range(40)}
    page = reward_report.build_page("demo", _whole(report | {"by_use_case": many}), REWARDS, LENGTHS)
    assert "case 39 (39)" in page
    assert "case 15 (15)" not in page
    assert "16 more are in" in page


@pytest.mark.parametrize(("low", "says"), [(0.51, "better than chance"), (0.4, "not clearly better than chance")])
def test_the_verdict_follows_the_interval(report: dict[str, Any], low: float, says: str) -> None:
    accuracy = {**report["pair_accuracy"], "value": 0.6, "ci_low": low}
    sentence = reward_report.verdict(report | {"pair_accuracy": accuracy})
    assert f", {says}." in sentence
    assert "60 % of 4 held-out pairs" in sentence


def _whole(report: dict[str, Any]) -> dict[str, Any]:
    machine = {"system": "Linux", "architecture": "x86_64", "cpu_cores": 2, "accelerator": None}
    return ORIGIN | report | {"machine": machine, "versions": {"python": "3.11"}, "date": "2026-01-01"}
