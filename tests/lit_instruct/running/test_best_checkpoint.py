"""The best checkpoint so far is the one beside the checkpoint that a run resumes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_instruct.errors import UserError
from lit_instruct.running.best_checkpoint import BestCheckpoint
from tests.lit_instruct.stages.helpers import Files, column, fit


def state(best: Path | None) -> dict[str, Any]:
    """What a run whose best checkpoint is in a place saved."""
    path, score = str(best or ""), torch.tensor(0.5)
    return {
        "monitor": "val/loss",
        "best_model_score": score if best else None,
        "best_model_path": path,
        "current_score": score,
        "dirpath": str(best.parent) if best else "/elsewhere",
        "best_k_models": {path: score} if best else {},
        "kth_best_model_path": path,
        "kth_value": score,
        "last_model_path": "",
    }


def folder_with(tmp_path: Path, name: str, *files: str) -> Path:
    folder = tmp_path / name / "checkpoints"
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).touch()
    return folder


@pytest.mark.parametrize("original", [True, False], ids=["copied", "moved"])
def test_beside_the_resumed_one(tmp_path: Path, original: bool) -> None:
    old = folder_with(tmp_path, "old", *(["best.ckpt"] if original else []))
    new = folder_with(tmp_path, "new", "best.ckpt", "last.ckpt")
    callback = BestCheckpoint(new, "val/loss", "min", str(new / "last.ckpt"))
    callback.load_state_dict(state(old / "best.ckpt"))
    assert callback.best_model_path == callback.kth_best_model_path == str(new / "best.ckpt")
    assert callback.best_k_models == {str(new / "best.ckpt"): torch.tensor(0.5)}
    assert callback.best_model_score == callback.kth_value == torch.tensor(0.5)


def test_of_a_run_that_goes_on_elsewhere(tmp_path: Path) -> None:
    old = folder_with(tmp_path, "old", "best.ckpt", "last.ckpt")
    new = folder_with(tmp_path, "new", "best.ckpt")  # of yet another run
    callback = BestCheckpoint(new, "val/loss", "min", str(old / "last.ckpt"))
    callback.load_state_dict(state(old / "best.ckpt"))
    assert callback.best_model_path == str(old / "best.ckpt")


def test_in_its_old_place_if_only_last_was_copied(tmp_path: Path) -> None:
    old, new = folder_with(tmp_path, "old", "best.ckpt"), folder_with(tmp_path, "new", "last.ckpt")
    callback = BestCheckpoint(new, "val/loss", "min", str(new / "last.ckpt"))
    callback.load_state_dict(state(old / "best.ckpt"))
    assert callback.best_model_path == str(old / "best.ckpt")


def test_one_that_is_missing_is_named(tmp_path: Path) -> None:
    new = folder_with(tmp_path, "new", "last.ckpt")
    callback = BestCheckpoint(new, "val/loss", "min", str(new / "last.ckpt"))
    with pytest.raises(UserError, match=f"new/checkpoints/last.ckpt: best.ckpt, its best .* is missing in {new}"):
        callback.load_state_dict(state(tmp_path / "old" / "best.ckpt"))


def test_no_validation_yet(tmp_path: Path) -> None:
    callback = BestCheckpoint(tmp_path, "val/loss", "min", str(tmp_path / "last.ckpt"))
    callback.load_state_dict(state(None))
    assert callback.best_model_path == ""
    assert callback.best_k_models == {}


def test_one_of_the_user_beside_it_and_checkpoints_of_0_1_0(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    theirs = ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.monitor=val/loss"]
    theirs += ["--trainer.callbacks.save_top_k=2", f"--trainer.callbacks.dirpath={tmp_path / 'theirs'}"]
    assert fit("sft", tmp_path, files, f"--model.base={tiny_model}", "--trainer.max_epochs=1", *theirs) == 0
    assert len(list((tmp_path / "theirs").glob("*.ckpt"))) == 1
    saved = torch.load(last := tmp_path / "sft/checkpoints/last.ckpt", weights_only=True)
    states = saved["callbacks"]
    own = next(name for name in states if name.startswith("BestCheckpoint"))
    state = states[own.replace("Best", "Model")] = states.pop(own)  # as 0.1.0 named it
    low = torch.tensor(0.0)  # which no later validation reaches
    state |= {"best_model_score": low, "kth_value": low, "best_k_models": {state["best_model_path"]: low}}
    torch.save(saved, last)
    before = json.loads((tmp_path / "sft/stage.json").read_text())["metrics"]["val/loss"]
    assert fit("sft", tmp_path, files, f"--model.base={tiny_model}", "--ckpt_path=last") == 0
    assert column(tmp_path / "sft/logs/metrics.csv", "val/loss")[-1] != before
    assert json.loads((tmp_path / "sft/stage.json").read_text())["metrics"]["val/loss"] == before
