"""What all benchmarks share: sides that take turns, memory of this process, and results written atomically."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import (
    environment,
    medians,
    peak_bytes,
    reset_peak,
    resident_bytes,
    run_side,
    take_turns,
    write_results,
)


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
    with pytest.raises(RuntimeError, match="No module named 'benchmarks.nothing'"):
        run_side("benchmarks.nothing", "ours", {})


def test_a_side_that_was_stopped_before_it_printed_anything_has_failed() -> None:
    with pytest.raises(RuntimeError, match="os._exit failed with 0"):
        run_side("os", "_exit", {"status": 0})


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak is never forgotten")
def test_peak_is_seen_and_forgotten() -> None:
    reset_peak()
    before = resident_bytes()
    # mapped: an allocator may answer from pages that it already holds, which is no growth
    # and large, because the kernel counts resident memory in batches per processor
    with mmap.mmap(-1, 200_000_000) as block:
        for _ in range(200):
            block.write(b"x" * 1_000_000)
        assert peak_bytes() - before > 160_000_000
    reset_peak()
    assert peak_bytes() - before < 100_000_000


@pytest.mark.parametrize("module", ["benchmarks.rm", "benchmarks.sft"])
def test_the_process_that_asks_is_free_of_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_says_machine_versions_and_date() -> None:
    found = environment()
    assert found["machine"]["cores"] >= 1 and found["machine"]["torch_threads"] >= 1
    assert {"python", "torch", "transformers", "datasets"} <= found["versions"].keys()
    assert len(found["date"]) == len("2026-01-31")


def test_results_are_written_with_their_environment(tmp_path: Path) -> None:
    path = write_results(tmp_path / "new" / "x.json", {"rows_per_second": 3})
    written = json.loads(path.read_text())
    assert written["rows_per_second"] == 3
    assert "versions" in written["environment"]
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]


def test_what_json_cannot_hold_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = write_results(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_results(path, {"a": object()})
    assert json.loads(path.read_text())["a"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_medians_are_scaled_and_rounded() -> None:
    runs = [{"forward": seconds} for seconds in (0.5, 0.0123456, 0.001)]
    assert medians(runs) == {"forward": 0.0123456}
    assert medians(runs, digits=1, scale=1e3) == {"forward": 12.3}
