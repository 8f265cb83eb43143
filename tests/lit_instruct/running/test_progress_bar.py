"""What a stage shows while it runs."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_instruct import progress
from lit_instruct.running import progress_bar
from lit_instruct.running.progress_bar import StageProgress
from tests.lit_instruct.stages.helpers import FLOAT, QUICK, SMALL, Files, run


def test_the_bar_shows_short_names() -> None:
    trainer: Any = SimpleNamespace(
        callback_metrics={"ppo/kl": 1.23456, "ppo/reward": 0.5, "ppo/tokens_per_second": 1234.5}
    )
    assert StageProgress().get_metrics(trainer, None) == {"reward": "0.5", "KL": "1.23", "tokens/s": "1234"}  # type: ignore[arg-type]


def lines_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: Any) -> list[str]:
    """The lines of a run that writes one at every state."""
    monkeypatch.setattr(progress, "MOST", 0.0)
    capsys.readouterr()
    assert run(*words, *FLOAT, *(word for word in QUICK if "progress_bar" not in word)) == 0
    return capsys.readouterr().err.splitlines()


def test_one_count_for_all_epochs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path, files: Files
) -> None:
    words = ["sft", "fit", "--run", tmp_path, *files.options("sft"), *SMALL["sft"], f"--model.base={tiny_model}"]
    lines = lines_of(capsys, monkeypatch, *words)
    counts = [int(found[1]) for line in lines if (found := re.match(r"sft: (\d+) of 10\b", line))]
    assert counts == sorted(counts) and {*range(11)} <= {*counts}
    assert any(re.search(r", \d+\.\d\d s/it, \d+ s left, loss=", line) for line in lines)
    assert any("validation 2/2" in line for line in lines)


def test_phases_of_ppo(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run_folder: Path, files: Files
) -> None:
    words = ["ppo", "fit", "--run", run_folder, *files.options("ppo"), *SMALL["ppo"], "--model.lora.top_layers=2"]
    lines = lines_of(capsys, monkeypatch, *words)
    assert [line for line in lines if re.match(r"ppo: 4 of 4\b", line)]
    for phase in ("sampling 6/6", "scoring 2/", "update 2/2", "validation 1/1, sampling 1/6"):
        assert any(phase in line for line in lines), phase
    counts = [int(found[1]) for line in lines if (found := re.match(r"ppo: (\d+) of 4\b", line))]
    assert counts == sorted(counts)


def test_validate_shows_its_batches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run_folder: Path, files: Files
) -> None:
    more = ["--data.batch_size=2", "--model.lora.top_layers=2"]
    words = ["rm", "validate", "--run", run_folder, *files.options("rm"), *more]
    lines = lines_of(capsys, monkeypatch, *words)
    assert any(line.startswith("rm: validation: 2 of 3") for line in lines)


def test_a_long_training_says_at_its_start_how_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path, files: Files
) -> None:
    monkeypatch.setattr(progress_bar, "MEASURED", 0.0)
    words = ["sft", "fit", "--run", tmp_path, *files.options("sft"), *SMALL["sft"], f"--model.base={tiny_model}"]
    said = "sft: about "
    assert not [line for line in lines_of(capsys, monkeypatch, *words) if line.startswith(said)]  # a short one
    monkeypatch.setattr(progress_bar, "LONG", 0.0)
    (line,) = [line for line in lines_of(capsys, monkeypatch, *words) if line.startswith(said)]
    assert re.search(
        r"for the other 8 steps on this machine, estimated from the first 1; validations come on top", line
    )


def test_a_bar_of_the_user_takes_its_place(tmp_path: Path, tiny_model: Path, files: Files) -> None:
    words = ["sft", "fit", "--run", tmp_path, *files.options("sft"), f"--model.base={tiny_model}", *FLOAT]
    words += ["--trainer.callbacks=TQDMProgressBar", "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu"]
    assert run(*words) == 0


def test_no_progress_if_it_is_switched_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path, files: Files
) -> None:
    words = ["sft", "fit", "--run", tmp_path, *files.options("sft"), *SMALL["sft"], f"--model.base={tiny_model}"]
    lines = lines_of(capsys, monkeypatch, *words, "--trainer.enable_progress_bar=false")
    assert not [line for line in lines if line.startswith("sft: ")]
