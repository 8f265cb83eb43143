"""The best checkpoint so far is the one beside the checkpoint that a run resumes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_instruct.errors import UserError
from lit_instruct.running.best_checkpoint import BestCheckpoint


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


def test_checkpoints_of_0_1_0_are_understood(tmp_path: Path) -> None:
    plain = ModelCheckpoint(tmp_path, "best", monitor="val/loss", mode="min", enable_version_counter=False)
    assert BestCheckpoint(tmp_path, "val/loss", "min", None).state_key == plain.state_key
