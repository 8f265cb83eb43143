"""PPO until its KL has used up a budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.errors import UserError
from lit_instruct.ppo.objective import KLOptions
from tests.lit_instruct.stages.helpers import FLOAT, SMALL, Files, assert_equal, column, fit, rows_of, weights

STRAYS = [
    "--model.optimizer.learning_rate=0.03",
    "--model.optimizer.warmup_iterations=0",
    "--model.kl.coef=0",
    "--model.iterations=9",
]
BUDGET = "--model.kl.budget=0.2"


def start(tiny_model: Path) -> list[str]:
    function = "tests.lit_instruct.stages.rewards.letters"
    return [f"--model.base={tiny_model}", "--model.reward.model=null", f"--model.reward.function={function}", *STRAYS]


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "ppo/stage.json").read_text())


@pytest.fixture(scope="module")
def spent(tmp_path_factory: pytest.TempPathFactory, files: Files, tiny_model: Path) -> Path:
    """A run that has reached its budget; tests must not write to it."""
    folder = tmp_path_factory.mktemp("spent")
    assert fit("ppo", folder, files, *start(tiny_model), BUDGET) == 0
    return folder


def test_the_policy_that_reaches_the_budget_is_handed_over_as_it_was_measured(
    tmp_path: Path, files: Files, tiny_model: Path, spent: Path
) -> None:
    rows = [row for row in rows_of(spent / "ppo/logs/metrics.csv") if "ppo/kl" in row]
    kl = [float(row["ppo/kl"]) for row in rows]
    learnt = len(rows) - 1
    assert 1 < learnt < 8
    assert max(kl[:-1]) < 0.2 <= kl[-1]
    assert ["loss/policy" in row for row in rows] == [True] * learnt + [False]
    assert [float(row["ppo/iteration"]) for row in rows] == [*range(1, learnt + 2)]
    found = record(spent)
    assert found["metrics"]["ppo/kl"] == pytest.approx(kl[-1])
    sentence = f"--model.kl.budget=0.2 was reached after {learnt} iterations: the KL is {kl[-1]:.2f} nats per response"
    assert found["ending"] == sentence
    # The same training without a budget, which ends after as many iterations.
    assert fit("ppo", tmp_path, files, *start(tiny_model), f"--model.iterations={learnt}") == 0
    assert_equal(weights(tmp_path / "ppo"), weights(spent / "ppo"))
    validated = [column(run / "ppo/logs/metrics.csv", "val/kl")[-1] for run in (tmp_path, spent)]
    assert validated[0] == validated[1] == pytest.approx(found["metrics"]["val/kl"])
    assert record(tmp_path)["ending"] is None


def test_a_budget_that_is_never_reached_is_told(
    tmp_path: Path, files: Files, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("ppo", tmp_path, files, *start(tiny_model), "--model.kl.budget=50", "--model.iterations=2") == 0
    kl = column(tmp_path / "ppo/logs/metrics.csv", "ppo/kl")
    sentence = (
        "--model.kl.budget=50.0 was not reached: the training ended after 2 iterations, whose last responses had a KL "
        f"of {kl[-1]:.2f} nats; raise --model.iterations, or lower --model.kl.coef"
    )
    assert len(kl) == 2
    assert record(tmp_path)["ending"] == sentence
    assert sentence in capsys.readouterr().out.splitlines()


def test_selection_may_hand_over_an_earlier_policy(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    more = ["--model.selection.metric=val/kl", "--model.selection.mode=min", "--trainer.val_check_interval=1"]
    assert fit("ppo", tmp_path, files, *start(tiny_model), BUDGET, *more) == 0
    found, kl = record(tmp_path), column(tmp_path / "ppo/logs/metrics.csv", "val/kl")
    assert found["metrics"]["val/kl"] == pytest.approx(min(kl))
    assert found["ending"].endswith("nats per response; the best policy by val/kl up to then is the result")


def test_contradictions_are_refused(
    tmp_path: Path, files: Files, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"--model.kl.budget=0: must be above 0"):
        KLOptions(budget=0)
    with pytest.raises(UserError, match=r"--model.kl.bound=6.0: it ends the training before --model.kl.budget=6.5 is"):
        KLOptions(bound=6.0, budget=6.5)
    KLOptions(bound=6.0, on_bound="shrink", budget=6.5)
    KLOptions(bound=7.0, budget=6.5)
    assert fit("ppo", tmp_path, files, *start(tiny_model), BUDGET, "--model.optimizer.ema_decay=0.9") == 2
    said = capsys.readouterr().err
    assert "--model.kl.budget=0.2: with --model.optimizer.ema_decay an average is handed over, whose KL is not" in said


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path: Path, files: Files, tiny_model: Path, spent: Path) -> None:
    words = ["--run", tmp_path, *files.options("ppo"), *SMALL["ppo"], *FLOAT, *start(tiny_model), BUDGET]
    words += ["--model.lora.top_layers=2", "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "lit_instruct.cli", "ppo", "fit", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal(weights(tmp_path / "ppo"), weights(spent / "ppo"), 1e-3)
    assert record(tmp_path)["ending"] == record(spent)["ending"]
