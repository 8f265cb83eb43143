"""A run folder that was moved or copied resumes, and hands over the same best checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.lit_instruct.stages.helpers import Files, assert_equal, fit, weights


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("place", ["copied", "moved"])
def test_the_best_checkpoint_is_found(tmp_path: Path, tiny_model: Path, files: Files, place: str) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    start = [f"--model.base={tiny_model}", "--model.optimizer.final_share=1.0"]
    assert fit("sft", first, files, *start, "--model.optimizer.learning_rate=3e-3") == 0
    best = json.loads((first / "sft/stage.json").read_text())
    made = weights(first / "sft")
    shutil.copytree(first, other) if place == "copied" else shutil.move(first, other)
    worse = ["--trainer.max_epochs=3", "--model.optimizer.learning_rate=3.0", "--ckpt_path=last"]
    assert fit("sft", other, files, *start, *worse) == 0
    found = json.loads((other / "sft/stage.json").read_text())
    assert found["metrics"]["val/loss"] == best["metrics"]["val/loss"]
    assert_equal(weights(other / "sft"), made)
    # and the record says what made them, which was not the options of the resumed run
    assert found["options"]["model"]["optimizer"]["learning_rate"] == 3e-3
    assert found["options"]["trainer"]["max_epochs"] == 2


def test_a_missing_best_checkpoint_is_named(
    tmp_path: Path, tiny_model: Path, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("sft", tmp_path, files, f"--model.base={tiny_model}") == 0
    (tmp_path / "sft/checkpoints/best.ckpt").unlink()
    more = ["--trainer.max_epochs=3", "--ckpt_path=last"]
    assert fit("sft", tmp_path, files, f"--model.base={tiny_model}", *more) == 2
    said = "last.ckpt: best.ckpt, its best checkpoint so far, is missing in "
    assert said in capsys.readouterr().err
