"""The reward benchmark: its work, its figures, its file, and a tiny run of both sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import rm
from benchmarks.harness import run_side, write_part
from benchmarks.rm_work import CASES, Case, fastest, pairs_of, ranked_item, steps_of

CASE = Case(3, 4, 2, prompts=2, trl_steps=1, our_steps=2, micro_batches=(1, 3), goal=2.0)


def test_what_token_counts_allow() -> None:
    assert [case.name for case in CASES] == ["K=4, 1:1", "K=9, 1:1", "K=4, 8:1", "K=9, 8:1"]
    assert [round(case.allowed, 1) for case in CASES] == [4.8, 14.4, 9.0, 38.1]
    assert [case.goal for case in CASES] == [3.5, 10, 6, 25]


def test_micro_batches_fill_whole_steps() -> None:
    for case in (*CASES, *(case.smaller() for case in CASES)):
        assert case.micro_batches
        assert all(case.pairs * case.prompts % size == 0 for size in case.micro_batches)
        assert all(case.search_pairs(size) <= case.pairs * case.prompts for size in case.micro_batches)
    assert [CASE.search_pairs(size) for size in (1, 3, 5)] == [4, 6, 5]


def test_items_have_exact_lengths_and_one_prompt_each() -> None:
    items = CASE.items(2, vocabulary=50)
    assert items == CASE.items(2, vocabulary=50) != CASE.items(2, vocabulary=50, seed=1)
    for item in items:
        assert [len(sequence) for sequence in item["sequences"]] == [6, 6, 6]
        assert len({tuple(sequence[:4]) for sequence in item["sequences"]}) == 1
        assert len({tuple(sequence[4:]) for sequence in item["sequences"]}) == 3
        assert sorted(item["ranks"]) == [1, 2, 3]
        assert all(3 <= token < 50 for sequence in item["sequences"] for token in sequence)


def test_pairs_without_ties_better_one_first() -> None:
    items = [ranked_item([[1], [2], [3]], [2, 1, 2]), ranked_item([[4], [5]], [1, 2])]
    assert pairs_of(items) == [
        {"chosen_ids": [2], "rejected_ids": [1]},
        {"chosen_ids": [2], "rejected_ids": [3]},
        {"chosen_ids": [4], "rejected_ids": [5]},
    ]
    assert len(pairs_of(CASE.items(5, 50))) == 5 * CASE.pairs == 15


def test_accumulation() -> None:
    assert steps_of(pairs=240, steps=12, micro_batch=4) == 5
    assert steps_of(pairs=3, steps=2, micro_batch=4) == 1


def test_fastest() -> None:
    assert fastest([{"micro_batch": size, "pairs_per_second": rate} for size, rate in ((1, 2.0), (2, 3.0))]) == 2


def run_of(rate: float, peak: float) -> dict[str, float]:
    return {"seconds": 1.0, "pairs_per_second": rate, "peak_bytes": peak, "loaded_bytes": 1e6, "growth_bytes": peak / 2}


def test_medians_are_compared_with_the_goals() -> None:
    tries = [{"micro_batch": 3, "pairs_per_second": 1.0}]
    runs = {"ours": [run_of(rate, 9e6) for rate in (1.0, 6.0, 9.0)], "trl": [run_of(3.0, 8e6)] * 3}
    found = rm.compare(CASE, tries, runs)
    assert found["ratio"] == 2.0 and found["memory_ratio"] == 1.125
    assert found["goals"] == {
        "ratio": {"goal": 2.0, "reached": True},
        "memory_ratio": {"goal": 1, "reached": False},
    }
    assert found["peak_mb"] == {"trl": 8, "ours": 9} and found["trl_micro_batch"] == 3
    slower = rm.compare(CASE, tries, runs | {"trl": [run_of(3.1, 9e6)]})
    assert [goal["reached"] for goal in slower["goals"].values()] == [False, True]


def test_a_part_is_written_beside_the_others(tmp_path: Path) -> None:
    out = str(tmp_path / "rm.json")
    write_part(out, "speed", {"a": 1})
    first = json.loads(Path(out).read_text())
    write_part(out, "quality", {"b": 2})
    write_part(out, "quality", {"b": 3})
    found = json.loads(Path(out).read_text())
    assert found["quality"] == {"b": 3}
    assert found["speed"] == {"a": 1, "environment": first["environment"]}
    assert found["environment"]["versions"]["torch"]


@pytest.mark.slow
def test_a_quick_run(tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "rm.json"
    common = ["--quick", "--base", str(tiny_model), "--out", str(out)]
    assert rm.main(common) == 0
    assert rm.main([*common, "--quality"]) == 0
    found = json.loads(out.read_text())
    (case,) = found["speed"]["cases"]
    assert case["case"] == "K=4, 1:1" and case["ratio"] > 0 and len(case["runs"]["trl"]) == 1
    assert [found["micro_batch"] for found in case["trl_micro_batches"]] == [1, 2]
    ours, trl = (found["quality"][side]["epochs"] for side in ("ours", "trl"))
    assert ours[0] == trl[0]  # the same network on the same prompts, before any step
    assert ours[1]["step"] == 2 and ours[1]["loss"] != ours[0]["loss"] and trl[1]["loss"] != trl[0]["loss"]


@pytest.mark.slow
def test_one_prompt_a_step_teaches_both_sides_the_same(tiny_model: Path) -> None:
    lesson = {"base": str(tiny_model), "prompts": 1, "held_out": 8, "epochs": 6, "batch_size": 1, "micro_batch": 1}
    ours, trl = (run_side("benchmarks.rm_quality", side, lesson)["epochs"] for side in ("ours", "trl"))
    assert [epoch["step"] for epoch in ours] == [epoch["step"] for epoch in trl] == list(range(7))
    for one, other in zip(ours, trl, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=4e-3)  # bfloat16, rounded in other places
    assert abs(ours[-1]["loss"] - ours[0]["loss"]) > 5e-3
