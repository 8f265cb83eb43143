"""If a checkpoint lacks one piece of the state, the comparison that the other tests use notices it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_instruct.models.average import WeightAverage
from tests.resume.helpers import Runs, checkpoint, differences, killed_at


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, runs: Runs) -> Path:
    """A run killed in its fifth iteration; its checkpoint is that of the fourth."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch, killed_at(WeightAverage, "update", 5, patch):
        runs.fit(folder)
    assert checkpoint(folder)["ppo"]["iterations_done"] == 4
    return folder


def _loops(saved: dict[str, Any]) -> dict[str, Any]:
    return saved["loops"]["fit_loop"]


def _forget_moments(saved: dict[str, Any]) -> None:
    for state in saved["optimizer_states"][0]["state"].values():
        state["exp_avg"].zero_()


PIECES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda saved: None,
    "a trained tensor": lambda saved: next(iter(saved["state_dict"].values())).zero_(),
    "moments of the optimizer": _forget_moments,
    "the place in the learning rate's schedule": lambda saved: saved["lr_schedulers"][0].update(last_epoch=0),
    "average of the weights": lambda saved: saved["ppo"].update(average=None),
    "KL coefficient": lambda saved: saved["ppo"].update(kl_coef=0.02),
    "moments of the scores": lambda saved: saved["ppo"].update(score_moments=[0.0, 0.0, 0.0]),
    "iterations": lambda saved: saved["ppo"].update(iterations_done=3),
    "episodes": lambda saved: saved["ppo"].update(episodes_done=0),
    "place in the prompts": lambda saved: _loops(saved)["state_dict"]["combined_loader"][0].update(position=0),
    "logged steps": lambda saved: saved.update(logged_steps=0),
    "rows of metrics.csv": lambda saved: saved["callbacks"]["RunFiles"].update(rows=1),
    "lines of samples.jsonl": lambda saved: saved["callbacks"]["SampleTable"].update(written=0),
    "what the diagnostics saw": lambda saved: saved["ppo"]["diagnostics"].update(count=0),
}
QUICK = {"moments of the optimizer", "average of the weights", "KL coefficient", "moments of the scores"}
"""Pieces that the fast tests try."""


@pytest.mark.parametrize("piece", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in PIECES])
def test_a_piece_left_out(tmp_path: Path, runs: Runs, whole: Path, stopped: Path, piece: str) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    saved = checkpoint(folder)
    PIECES[piece](saved)
    torch.save(saved, folder / "ppo/checkpoints/last.ckpt")
    assert runs.resume(folder) == 0
    found = differences(whole, folder)
    assert bool(found) == (piece != "nothing"), found
