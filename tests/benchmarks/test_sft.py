"""The SFT benchmark: its figures, and a tiny run of both sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import sft
from benchmarks.sft import STEPS, VARIANTS, compare, seconds_per_step


def test_the_mean_of_the_medians_of_each_step_without_the_first() -> None:
    assert seconds_per_step([[9.0, 1.0, 4.0], [9.0, 2.0, 5.0], [9.0, 30.0, 60.0]]) == 3.5
    assert STEPS >= 10


@pytest.mark.parametrize(("ours", "reached"), [(1.02, True), (1.03, False)])
def test_comparison_with_the_goal(ours: float, reached: bool) -> None:
    runs = {
        side: [{"step_seconds": [5.0, seconds, seconds], "peak_bytes": 2e6, "losses": [1.0]}] * 3
        for side, seconds in (("ours", ours), ("trl", 1.0))
    }
    found = compare(VARIANTS["packed"], runs)
    assert (found["ratio"], found["reached"]) == (ours, reached)
    assert found["workload"]["packing"] is True and found["peak_mb"] == {"trl": 2, "ours": 2}


@pytest.mark.slow
def test_a_quick_run_in_which_both_sides_see_the_same_rows(tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "sft.json"
    assert sft.main(["--quick", "--base", str(tiny_model), "--out", str(out)]) == 0
    found = json.loads(out.read_text())["variants"]
    assert set(found) == {"padded", "packed"}
    for variant in found.values():
        losses = variant["losses"]
        assert len(losses["ours"]) == 3
        assert losses["ours"] == pytest.approx(losses["trl"], abs=5e-3)
