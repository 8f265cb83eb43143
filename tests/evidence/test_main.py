"""`python -m evidence`: which findings run, where results go, and what a failure does to the others."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from evidence import __main__ as command
from evidence.context import Context
from evidence.result import Result
from lit_instruct.errors import UserError


def result(name: str) -> Result:
    return Result(name, "Why?", "paper", "done", True, 1.0, 0.5, 1.5, "nats", (0,), "It holds.")


@pytest.fixture
def finding(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module like those of the findings, whose `measure` fails the first time."""
    module = ModuleType("evidence.findings.made_up")
    contexts: list[Context] = []

    def measure(context: Context) -> Result:
        contexts.append(context)
        if len(contexts) == 1:
            raise UserError("the package is missing")
        return result("made_up")

    module.measure, module.contexts = measure, contexts  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(command, "NAMES", ["made_up"])
    return module


def test_results_of_a_quick_run_go_elsewhere(
    tmp_path: Path, finding: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    words = ["--quick", "--runs", str(tmp_path / "runs")]
    assert command.main(words) == 2
    assert "made_up: error: the package is missing" in capsys.readouterr().err
    assert command.main(words) == 0
    found = json.loads((tmp_path / "runs/results/made_up.json").read_text())
    assert found["verdict"] == "It holds."
    context = finding.contexts[-1]
    assert (context.quick, context.seeds, context.runs) == (True, (0,), tmp_path / "runs")


def test_seconds_of_failed_calls_count(tmp_path: Path, finding: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.time, "monotonic", iter([0.0, 5.0, 100.0, 102.0]).__next__)
    context = Context(tmp_path)
    with pytest.raises(UserError):
        command.measured("made_up", context)
    assert command.measured("made_up", context).seconds == 7.0


def test_an_unknown_finding_is_refused(finding: ModuleType, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["taxes"])
    assert ended.value.code == 2
    assert "no such finding: taxes; there are made_up" in capsys.readouterr().err


def test_every_finding_can_be_measured() -> None:
    assert {"overoptimization", "preferred"} <= set(command.NAMES)
    assert all(callable(importlib.import_module(f"evidence.findings.{name}").measure) for name in command.NAMES)
