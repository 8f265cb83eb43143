"""A run that is killed repeatedly, at the worst places, ends exactly like one that was never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_instruct.models.average import WeightAverage
from lit_instruct.ppo.collect import Collector
from lit_instruct.ppo.update import Updater
from lit_instruct.rollouts import engine
from lit_instruct.running.callbacks import HandOver
from lit_instruct.stages.ppo import PPOModule
from tests.resume.helpers import FULL, Runs, checkpoint, differences, killed_at

PLACES: list[tuple[str, Any, str, int, bool, int | None]] = [
    # description, owner and name of the function, number of its call, kill after it?, iterations of the checkpoint left
    ("between inner epochs, before any checkpoint", Updater, "step", 3, False, None),
    ("while scoring", Collector, "score_part", 8, False, 2),
    ("while a checkpoint is written", torch, "save", 1, False, 2),
    ("before it is renamed", torch, "save", 1, True, 2),
    ("between inner epochs", Updater, "step", 6, True, 3),
    ("inside a rollout", engine, "generate", 1, False, 3),
    ("after samples of a validation were written", PPOModule, "on_validation_epoch_end", 1, False, 3),
    ("after a validation was logged", torch, "save", 1, False, 3),
    ("after the update", WeightAverage, "update", 2, False, 4),
    ("in the validation that ends the training", PPOModule, "on_validation_epoch_end", 1, True, 4),
    ("before the result is handed over", HandOver, "on_train_end", 1, False, 5),
]


def killed_everywhere(folder: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    """Kills one run at each place in turn, then lets it finish."""
    for what, where, name, call, after, left in PLACES:
        with killed_at(where, name, call, monkeypatch, after):
            runs.resume(folder, *more)
        found = folder / "ppo/checkpoints/last.ckpt"
        assert (checkpoint(folder)["ppo"]["iterations_done"] if found.exists() else None) == left, what
    assert not (folder / "ppo/stage.json").exists()
    assert runs.resume(folder, *more) == 0


def test_lora(tmp_path: Path, runs: Runs, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_everywhere(tmp_path, runs, monkeypatch)
    assert differences(whole, tmp_path) == []
    assert [path.name for path in (tmp_path / "ppo/checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [["--model.quantize=4bit"], [*FULL, "--model.optimizer.name=adamw_8bit"]],
    ids=["4-bit base", "8-bit optimizer"],
)
def test_few_bits(tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    assert runs.fit(tmp_path / "whole", *more) == 0
    with killed_at(Updater, "step", 10, monkeypatch):
        runs.fit(tmp_path / "parts", *more)
    assert runs.resume(tmp_path / "parts", *more) == 0
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


@pytest.mark.slow
def test_full(tmp_path: Path, runs: Runs, whole_full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_everywhere(tmp_path, runs, monkeypatch, *FULL)
    assert differences(whole_full, tmp_path) == []
