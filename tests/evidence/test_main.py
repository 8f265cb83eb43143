"""`python -m evidence`: which findings run, where results go, and what a failure does to the exit status."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from evidence import findings
from evidence.__main__ import main
from evidence.context import Context
from evidence.result import Result
from lit_instruct.errors import UserError
from tests.evidence import made_up


def test_results_of_a_quick_run_go_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    contexts: list[Context] = []

    def measure(context: Context) -> Result:
        contexts.append(context)
        if len(contexts) == 1:
            raise UserError("there is no network")
        return made_up.result()

    made_up.finding(monkeypatch, measure)
    words = ["--quick", "--runs", str(tmp_path / "runs")]
    assert main(words) == 2
    assert "not reached: made_up: there is no network" in capsys.readouterr().err
    assert "not reached" in (tmp_path / "runs/evidence.html").read_text()
    assert main(words) == 0
    assert json.loads((tmp_path / "runs/results/made_up.json").read_text())["verdict"] == "It rises by a <b>nat</b>."
    assert "not reached" not in (tmp_path / "runs/evidence.html").read_text()
    assert (contexts[-1].quick, contexts[-1].seeds, contexts[-1].runs) == (True, (0,), tmp_path / "runs")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_so_and_the_next_one_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, ending: signal.Signals
) -> None:
    signals = [ending]

    def measure(context: Context) -> Result:
        while signals:
            os.kill(os.getpid(), signals.pop())
        return made_up.result()

    made_up.finding(monkeypatch, measure)
    words = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert main(words) == 130
    assert "interrupted; the same command resumes it" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    assert main(words) == 0
    assert (tmp_path / "results/made_up.json").is_file()


def test_an_unknown_finding_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    made_up.finding(monkeypatch, lambda context: made_up.result())
    with pytest.raises(SystemExit) as ended:
        main(["taxes"])
    assert ended.value.code == 2
    assert "no such finding: taxes; there are made_up" in capsys.readouterr().err


def test_list_gives_questions_and_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made_up.finding(monkeypatch, lambda context: made_up.result())
    words = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert main([*words, "--list"]) == 0
    assert capsys.readouterr().out == "made_up (not measured yet): Does it rise?\n"
    assert main(words) == main([*words, "--list"]) == 0
    assert capsys.readouterr().out.endswith("made_up (0 s): Does it rise?\n")


def test_every_finding_can_be_measured() -> None:
    assert {"overoptimization", "preferred"} <= set(findings.names())
    for name in findings.names():
        module = findings.module_of(name)
        assert callable(module.measure) and module.QUESTION.endswith("?")
