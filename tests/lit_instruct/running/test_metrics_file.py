"""metrics.csv is continued over a resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_instruct.errors import UserError
from lit_instruct.running.metrics_file import MetricsFile
from tests.lit_instruct.stages.helpers import rows_of


def test_metrics_file_keeps_the_rows_of_a_checkpoint(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    for step in range(4):
        file.log_metrics({"loss": float(step)}, step)
    file.log_metrics({"val/loss": 0.5}, 2)
    file.save()
    assert file.rows == 5
    with (tmp_path / "metrics.csv").open("a") as torn:
        torn.write("2.5,")  # as much of a row as a full disk took
    resumed = MetricsFile(tmp_path)
    resumed.cut(2)
    assert resumed.rows == 2
    resumed.log_metrics({"loss": 20.0}, 2)
    resumed.log_metrics({"new": 1.0}, 3)
    resumed.save()
    rows = rows_of(tmp_path / "metrics.csv")
    assert [(row["step"], row.get("loss"), row.get("new")) for row in rows] == [
        ("0", "0.0", None),
        ("1", "1.0", None),
        ("2", "20.0", None),
        ("3", None, "1.0"),
    ]
    MetricsFile(tmp_path / "none").cut(2)  # nothing there, nothing to do


def test_an_existing_file_is_continued_without_a_cut(tmp_path: Path) -> None:
    first = MetricsFile(tmp_path)
    first.log_metrics({"train/loss": 1.0}, 0)
    first.save()
    second = MetricsFile(tmp_path)
    second.log_metrics({"val/loss": 2.0}, 1)
    second.save()
    assert rows_of(tmp_path / "metrics.csv")[-1] == {"step": "1", "val/loss": "2.0"}


def test_nothing_is_written_before_something_is_logged(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "logs").save()
    assert not (tmp_path / "logs/metrics.csv").exists()


def test_a_new_column_does_not_endanger_the_rows_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = MetricsFile(tmp_path)
    file.log_metrics({"loss": 1.0}, 0)
    file.save()
    before = (tmp_path / "metrics.csv").read_bytes()

    def killed(*_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    file.log_metrics({"val/loss": 2.0}, 0)
    with pytest.raises(KeyboardInterrupt):
        file.save()
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe\x00\x01garbage\n1,2")
    with pytest.raises(UserError, match=r"metrics\.csv: damaged \(.*\); move it out of the run's folder"):
        MetricsFile(tmp_path).cut(0)


def test_a_row_with_too_many_cells_can_be_written_again(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("a,b\n1,2,3\n4,5\n")
    MetricsFile(tmp_path).cut(1)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["a,b", "1,2"]
