"""A run that ends at a budget of KL, stopped and resumed, or given more to spend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_instruct.ppo.validation import Validation
from lit_instruct.running.callbacks import HandOver
from tests.lit_instruct.stages.helpers import column
from tests.resume.helpers import Runs, checkpoint, differences, killed_at

STRAYS = [
    "--model.optimizer.ema_decay=null",
    "--model.optimizer.warmup_iterations=0",
    "--model.optimizer.learning_rate=3e-2",
    "--model.kl.target=null",
    "--model.iterations=6",
]
BUDGET = [*STRAYS, "--model.kl.budget=0.1"]


@pytest.fixture(scope="module")
def spent(tmp_path_factory: pytest.TempPathFactory, runs: Runs) -> Path:
    """A run that has reached its budget and was never stopped; tests must not write to it."""
    folder = tmp_path_factory.mktemp("spent")
    assert runs.fit(folder, *BUDGET) == 0
    assert len(column(folder / "ppo/logs/metrics.csv", "ppo/kl")) == 1 + checkpoint(folder)["ppo"]["iterations_done"]
    return folder


def ending(folder: Path) -> str:
    return str(json.loads((folder / "ppo/stage.json").read_text())["ending"])


# In the validation that follows the iteration that only measures, and before the result is written.
@pytest.mark.parametrize(
    "place",
    [(Validation, "step", "last"), pytest.param((HandOver, "on_train_end", 1), marks=pytest.mark.slow)],
    ids=["validation", "result"],
)
def test_a_killed_run_ends_as_the_whole_one(
    tmp_path: Path, runs: Runs, spent: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[type, str, int | str]
) -> None:
    kind, name, call = place
    validations = len(column(spent / "ppo/logs/metrics.csv", "val/kl"))
    with killed_at(kind, name, validations if call == "last" else int(call), monkeypatch):
        runs.fit(tmp_path, *BUDGET)
    assert runs.resume(tmp_path, *BUDGET) == 0
    assert differences(spent, tmp_path) == []
    assert ending(tmp_path) == ending(spent)
    assert runs.resume(tmp_path, *BUDGET) == 0  # complete: measured and handed over again
    assert differences(spent, tmp_path) == []


@pytest.mark.slow
def test_with_more_to_spend_it_goes_on_as_if_it_had_not_ended(tmp_path: Path, runs: Runs, spent: Path) -> None:
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    assert runs.fit(parts, *BUDGET) == 0
    more = [*STRAYS, "--model.kl.budget=1000"]
    assert runs.resume(parts, *more) == 0
    assert runs.fit(whole, *more) == 0
    assert differences(whole, parts) == []
    assert "was not reached" in ending(parts)


@pytest.mark.slow
def test_less_to_spend_ends_it_here_but_other_options_do_not_get_the_result(
    tmp_path: Path, runs: Runs, spent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.fit(tmp_path, *BUDGET) == 0
    before = (tmp_path / "ppo/stage.json").read_bytes()
    assert runs.resume(tmp_path, *BUDGET, "--model.kl.coef=0.5") == 2
    assert "this training was complete with another model.kl.coef" in capsys.readouterr().err
    assert (tmp_path / "ppo/stage.json").read_bytes() == before
    assert runs.resume(tmp_path, *STRAYS, "--model.kl.budget=0.01") == 0
    assert ending(tmp_path) == ending(spent).replace("budget=0.1", "budget=0.01")
    assert differences(spent, tmp_path) == []
