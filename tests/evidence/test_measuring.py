"""Findings are measured once, resumed after an interruption, and measured anew when what they are made from changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evidence import measuring
from evidence.context import Context
from evidence.measuring import Measuring
from evidence.result import Result, write_result
from evidence.stages import run_stage
from lit_instruct.errors import UserError
from tests.evidence import made_up
from tests.lit_instruct.running.test_own_process import Trainer


def by(tmp_path: Path, *ticks: float, **other: object) -> Measuring:
    """What measures into tmp_path, with a clock that shows `ticks`."""
    clock = iter(ticks).__next__ if ticks else time.monotonic
    return Measuring(Context(tmp_path / "runs", **other), tmp_path / "results", clock)  # type: ignore[arg-type]


def counted(result: Result, calls: list[Context]) -> Callable[[Context], Result]:
    def measure(context: Context) -> Result:
        calls.append(context)
        return result

    return measure


def test_a_result_is_measured_once_and_copied_to_where_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Context] = []
    made_up.finding(monkeypatch, counted(made_up.result(), calls))
    found, path = by(tmp_path, 0.0, 5.0).reached("made_up")
    assert (found["verdict"], found["seconds"], path) == (
        "It rises by a <b>nat</b>.",
        5.0,
        tmp_path / "results/made_up.json",
    )
    path.unlink()
    assert by(tmp_path).reached("made_up")[0] == found
    assert len(calls) == 1


@pytest.mark.parametrize("other", [{"seeds": (0, 1)}, {"base": "other"}, {"quick": True}])
def test_a_result_of_other_options_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, object]
) -> None:
    calls: list[Context] = []
    made_up.finding(monkeypatch, counted(made_up.result(), calls))
    by(tmp_path).reached("made_up")
    by(tmp_path, **other).reached("made_up")
    assert len(calls) == 2


def test_a_result_of_other_code_or_a_damaged_one_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Context] = []
    made_up.finding(monkeypatch, counted(made_up.result(), calls))
    by(tmp_path).reached("made_up")
    (tmp_path / "runs/results/made_up.json").write_text("{")
    by(tmp_path).reached("made_up")
    assert len(calls) == 2
    monkeypatch.setattr(measuring, "fingerprint", lambda name, context: "of other code")
    assert by(tmp_path).reached("made_up")[0]["fingerprint"] == "of other code"
    assert len(calls) == 3


def test_a_finding_that_was_killed_between_stages_continues_and_reports_all_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, train = tmp_path / "stage.yaml", Trainer()
    config.write_text("model: {}\n")
    killed = [True]

    def measure(context: Context) -> Result:
        run_stage("sft", config, context.runs / "a", [], train)
        if killed.pop() if killed else False:
            raise KeyboardInterrupt
        run_stage("rm", config, context.runs / "a", [], train)
        return made_up.result()

    made_up.finding(monkeypatch, measure)
    with pytest.raises(KeyboardInterrupt):
        by(tmp_path, 0.0, 5.0).reached("made_up")
    assert not list(tmp_path.rglob("results"))
    assert by(tmp_path).spent("made_up") == 5.0
    found, _ = by(tmp_path, 100.0, 102.0).reached("made_up")
    assert found["seconds"] == 7.0
    assert [words[0] for words in train.given] == ["sft", "rm"]


def test_what_cannot_be_measured_leaves_the_others_and_earlier_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fails(context: Context) -> Result:
        raise UserError("there is no network")

    made_up.finding(monkeypatch, counted(made_up.result(), []))
    made_up.finding(monkeypatch, fails, "made_up_too")
    earlier = write_result(made_up.result("made_up_too"), tmp_path / "results")
    before = earlier.read_text()
    assert by(tmp_path).all(["made_up_too", "made_up"]) == {"made_up_too": "there is no network"}
    assert earlier.read_text() == before
    assert (tmp_path / "results/made_up.json").is_file()
    assert "made_up_too: error: there is no network" in capsys.readouterr().err


def test_a_missing_package_is_told_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Context] = []
    made_up.finding(monkeypatch, counted(made_up.result(), calls)).__dict__["PACKAGES"] = ("no_such_package",)
    with pytest.raises(UserError, match=r"needs the package no_such_package; install it with \.venv/bin/pip install"):
        by(tmp_path).reached("made_up")
    assert not calls


def test_a_source_that_a_finding_does_not_have_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Context] = []
    module = made_up.finding(monkeypatch, counted(made_up.result(), calls))
    with pytest.raises(UserError, match="takes its data from packages alone; run it with --source=packages"):
        by(tmp_path, source="hub").reached("made_up")
    module.__dict__["SOURCES"] = ("packages", "hub")
    by(tmp_path, source="hub").reached("made_up")
    assert [context.source for context in calls] == ["hub"]


def test_the_time_left_is_that_of_earlier_results_less_what_was_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up.finding(monkeypatch, counted(made_up.result(), []))
    assert by(tmp_path).left(["made_up"]) == "not measured before"
    write_result(made_up.result(seconds=754.0), tmp_path / "results")
    assert by(tmp_path).left(["made_up"]) == "about 13 min left"
    assert by(tmp_path).left(["made_up", "tax"]) == "more than 13 min left"
    (tmp_path / "runs/made_up").mkdir(parents=True)
    (tmp_path / "runs/made_up/seconds.json").write_text("700.0")
    assert by(tmp_path).left(["made_up"]) == "about 54 s left"
    by(tmp_path).reached("made_up")
    assert by(tmp_path).left(["made_up"]) == "measured already"


def test_progress_names_what_is_done_and_what_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made_up.finding(monkeypatch, counted(made_up.result(), []))
    made_up.finding(monkeypatch, counted(made_up.result("made_up_too", holds=None), []), "made_up_too")
    by(tmp_path, 0.0, 30.0, 30.0, 50.0).all(["made_up", "made_up_too"])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "evidence: 2 findings, not measured before"
    assert lines[1] == "evidence: 1 of 2, made_up, not measured before"
    assert lines[2].startswith("evidence: made_up holds, measured in 30 s, written to ")
    assert lines[2].endswith("made_up.json; next made_up_too, in all not measured before")
    assert lines[4].startswith("evidence: made_up_too neither shown nor excluded, measured in 20 s")
    assert json.loads((tmp_path / "results/made_up_too.json").read_text())["holds"] is None
