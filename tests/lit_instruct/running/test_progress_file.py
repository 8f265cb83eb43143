"""logs/progress.json while a stage trains, at its end, and where it was stopped or failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import lightning
import pytest
from lightning.pytorch.callbacks import Callback

from lit_instruct.running.progress_bar import listen_to_phases
from lit_instruct.running.progress_file import ProgressFile
from tests.lit_instruct.stages.helpers import Files, fit
from tests.resume import rewards

SEEN = "--trainer.callbacks+=tests.lit_instruct.running.test_progress_file.Seen"
REWARD = "--model.reward.function=tests.lit_instruct.stages.rewards.letters"


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "logs" / "progress.json").read_text(encoding="utf-8"))


class Seconds:
    """A clock that goes on by a second with each look at it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class Seen(Callback):
    """Keeps what a watcher can see before each step, with a clock that makes every state due."""

    states: ClassVar[list[dict[str, Any]]] = []
    phases: ClassVar[set[str]] = set()

    def on_fit_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.states.clear()
        next(one for one in trainer.callbacks if isinstance(one, ProgressFile)).clock = Seconds()

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        folder = Path(trainer.default_root_dir)
        self.states.append(read(folder))
        listen_to_phases(pl_module, lambda *_: self.phases.add(read(folder)["phase"]))


@pytest.mark.parametrize(("stage", "steps"), [("sft", 10), ("rm", 6), ("ppo", 4)])
def test_a_complete_training(trained: Path, stage: str, steps: int) -> None:
    found = read(trained / stage)
    assert (found["stage"], found["first"], found["done"], found["total"]) == (stage, 0, steps, steps)
    assert found["ended"] == "complete" and found["phase"] == "" and found["device"] == "cpu"
    assert found["began"] <= found["stepped"] <= found["written"]
    assert 0.05 < found["peak_memory_gb"] < 20
    assert not list(trained.rglob("*.writing"))


def test_the_states_in_between_and_the_phases_of_ppo(run_folder: Path, files: Files) -> None:
    assert fit("ppo", run_folder, files, REWARD, SEEN, "--model.iterations=2") == 0
    assert [one["done"] for one in Seen.states] == [0, 1]
    assert {one["total"] for one in Seen.states} == {2}
    assert {one["ended"] for one in Seen.states} == {None}
    assert {"sampling 1/6", "update 1/2"} <= Seen.phases
    assert read(run_folder / "ppo")["ended"] == "complete"


def test_ctrl_c_is_told(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    press = SEEN.replace("running.test_progress_file.Seen", "stages.helpers.PressCtrlC")
    assert fit("sft", tmp_path, files, f"--model.base={tiny_model}", press, "--trainer.callbacks.during=1") == 130
    found = read(tmp_path / "sft")
    assert (found["ended"], found["done"], found["total"]) == ("stopped", 2, 10)


def test_a_fault_is_told(run_folder: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREAK_AT_CALL", "1")
    monkeypatch.setattr(rewards, "calls", 0)
    assert fit("ppo", run_folder, files, "--model.reward.function=tests.resume.rewards.letters") == 2
    assert "the labeler has gone home" in read(run_folder / "ppo")["ended"]
