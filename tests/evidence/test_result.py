"""The file of a finding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evidence.result import read_result, read_results, write_result
from lit_instruct.errors import UserError
from tests.evidence.made_up import result


def test_a_result_is_written_with_machine_versions_and_date(tmp_path: Path) -> None:
    path = write_result(result("tax", holds=None), tmp_path / "results")
    found = read_result(path)
    assert path.name == "tax.json"
    assert (found["holds"], found["figure"], found["seeds"], found["seconds"]) == (None, 1.0, [0, 1, 2], 754.0)
    assert found["machine"]["cpu_cores"] >= 1
    assert found["versions"]["torch"] and found["date"]
    assert list(read_results(path.parent)) == ["tax"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"verdict": None}, "verdict: text, or a list of objects, expected"),
        ({"rows": [1]}, "rows: text, or a list of objects, expected"),
        ({"holds": "yes"}, "its own figures: holds must be true, false or null"),
        ({"figure": float("nan")}, "its own figures: figure, ci_low, ci_high must be numbers, or all null"),
        ({"ci_low": None}, "figure, ci_low, ci_high must be numbers, or all null"),
        ({"ci_low": 2.0}, "its own figures: ci_low is above ci_high"),
        ({"seeds": ["0"]}, "seeds must be whole numbers"),
        ({"seconds": None}, "seconds must be a number"),
        ({"claims": [{"claim": "later", "holds": True, "figure": 1}]}, "later: figure, ci_low, ci_high must be"),
    ],
)
def test_what_is_no_result_is_not_written(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"tax.json: not the result of a finding: .*{message}"):
        write_result(result("tax", **other), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_result_without_figures_is_one(tmp_path: Path) -> None:
    assert read_result(write_result(result(figure=None, ci_low=None, ci_high=None), tmp_path))["figure"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as a result"),
        ("[]", "it is no JSON object"),
        ("{}", "ci_high, ci_low, claims, date"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tax.json").write_text(text)
    with pytest.raises(UserError, match=f"tax.json.*{message}"):
        read_results(tmp_path)


def test_a_renamed_file_is_refused(tmp_path: Path) -> None:
    path = write_result(result("tax"), tmp_path)
    with pytest.raises(UserError, match="it is that of tax"):
        read_result(path.rename(tmp_path / "preferred.json"))
    assert json.loads((tmp_path / "preferred.json").read_text())["finding"] == "tax"
