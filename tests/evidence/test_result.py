"""The file of a finding."""

from __future__ import annotations

import json
from pathlib import Path

from evidence.result import Result, write_result


def test_a_result_is_written_with_machine_versions_and_date(tmp_path: Path) -> None:
    result = Result("tax", "Why?", "In section 4.", "This.", None, 0.1, 0.0, 0.2, "nats", (0, 1), "Perhaps.")
    path = write_result(result, tmp_path / "results")
    found = json.loads(path.read_text())
    assert path.name == "tax.json"
    assert (found["holds"], found["figure"], found["seeds"]) == (None, 0.1, [0, 1])
    assert found["machine"]["cpu_cores"] >= 1
    assert found["versions"]["torch"] and found["date"]
