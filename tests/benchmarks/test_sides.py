"""Sides take turns in processes of their own, and memory is that of this process."""

from __future__ import annotations

import mmap
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.sides import peak_bytes, reset_peak, resident_bytes, run_side, take_turns


def test_sides_take_turns_and_swap_each_time() -> None:
    asked: list[Any] = []

    def run(side: str, work: dict[str, Any]) -> dict[str, Any]:
        asked.append((side, work["case"]))
        return {"number": len(asked)}

    works = {case: {side: {"case": case} for side in ("trl", "ours")} for case in "ab"}
    found = take_turns(works, 2, run)
    first = [("trl", "a"), ("ours", "a"), ("trl", "b"), ("ours", "b")]
    assert asked == [*first, ("ours", "a"), ("trl", "a"), ("ours", "b"), ("trl", "b")]
    assert found["b"]["trl"] == [{"number": 3}, {"number": 8}]


def test_a_failing_side_says_why() -> None:
    with pytest.raises(RuntimeError, match="No module named benchmarks.nothing"):
        run_side("benchmarks.nothing", "ours", {})


def test_a_side_that_was_stopped_before_it_printed_anything_has_failed() -> None:
    with pytest.raises(RuntimeError, match="keyword --side ours failed with 0"):
        run_side("keyword", "ours", {})  # a module of Python's that runs and prints nothing


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak is never forgotten")
def test_peak_is_seen_and_forgotten() -> None:
    reset_peak()
    before = resident_bytes()
    # mapped: an allocator may answer from pages that it already holds, which is no growth
    with mmap.mmap(-1, 50_000_000) as block:
        block.write(b"x" * 50_000_000)
        assert peak_bytes() - before > 40_000_000
    reset_peak()
    assert peak_bytes() - before < 30_000_000


@pytest.mark.parametrize("module", ["benchmarks.rm", "benchmarks.sft"])
def test_the_process_that_asks_is_free_of_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
