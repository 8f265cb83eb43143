"""Where a benchmark ran is in its file, and a file that fails to be written leaves the earlier one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.environment import environment, write_results


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
