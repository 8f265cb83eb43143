"""An interrupted run that is resumed equals one that was not: weights, optimizer and metrics.csv."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lit_instruct.stages.helpers import Files, KilledError, assert_equal, column, fit, rows_of, weights

PRESS = "--trainer.callbacks+=tests.lit_instruct.stages.helpers.PressCtrlC"


def _press(during: int, number: int = signal.SIGINT.value) -> list[str]:
    return [PRESS, f"--trainer.callbacks.during={during}", f"--trainer.callbacks.number={number}"]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of a nested structure by their path."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{name}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, inner in enumerate(value) for k, v in _flat(inner, f"{name}/{i}").items()}
    return {name: value}


def assert_same_run(one: Path, other: Path) -> None:
    """Compares two stage folders: result, last checkpoint and log."""
    assert_equal(weights(one), weights(other))
    first, second = (torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (one, other))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        left, right = _flat(first[part]), _flat(second[part])
        assert left.keys() == right.keys()
        for name, value in left.items():
            if name == "/bias":  # set after training; a checkpoint of the last step may be from before or after
                continue
            same = torch.equal(value, right[name]) if isinstance(value, torch.Tensor) else value == right[name]
            assert same, f"{part}{name}"
    assert rows_of(other / "logs/metrics.csv") == rows_of(one / "logs/metrics.csv")


def _start(stage: str, trained: Path, tiny_model: Path, files: Files) -> list[str]:
    """Options that make the stage the same as in `trained`, in another run folder."""
    return {
        "sft": [f"--model.base={tiny_model}"],
        "rm": [f"--model.base={trained / 'sft'}", f"--data.demonstrations_path={files.sft}"],
        "ppo": [f"--model.base={trained / 'sft'}", f"--model.reward.model={trained / 'rm'}"],
    }[stage]


@pytest.mark.parametrize(
    ("stage", "during"),
    [("sft", 2), ("sft", 4), ("sft", 7), ("rm", 1), ("rm", 2), ("ppo", 0), ("ppo", 1), ("ppo", 2)],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path,
    files: Files,
    tiny_model: Path,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    during: int,
) -> None:
    start = _start(stage, trained, tiny_model, files)
    assert fit(stage, tmp_path, files, *start, *_press(during)) == 130
    assert "--ckpt_path=last" in capsys.readouterr().out
    assert not (tmp_path / stage / "stage.json").exists()
    assert fit(stage, tmp_path, files, *start, "--ckpt_path=last") == 0
    assert_same_run(trained / stage, tmp_path / stage)


def test_two_interruptions(
    tmp_path: Path, files: Files, tiny_model: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = _start("ppo", trained, tiny_model, files)
    handler = signal.getsignal(signal.SIGTERM)
    assert fit("ppo", tmp_path, files, *start, *_press(0)) == 130
    assert "press Ctrl-C again to stop at once" in capsys.readouterr().out
    assert fit("ppo", tmp_path, files, *start, "--ckpt_path=last", *_press(1, signal.SIGTERM.value)) == 130
    assert "press Ctrl-C to stop at once" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == handler
    assert fit("ppo", tmp_path, files, *start, "--ckpt_path=last") == 0
    assert_same_run(trained / "ppo", tmp_path / "ppo")


@pytest.mark.parametrize(
    "more",
    [["--trainer.accumulate_grad_batches=2"], ["--model.lora.dropout=0.2"], ["--model.trl.neftune_noise_alpha=5"]],
    ids=["accumulation", "dropout", "noise"],
)
def test_resume_inside_what_lightning_does_not_save(
    tmp_path: Path, files: Files, tiny_model: Path, more: list[str]
) -> None:
    base = f"--model.base={tiny_model}"
    assert fit("sft", tmp_path / "whole", files, base, *more) == 0
    assert fit("sft", tmp_path / "parts", files, base, *more, *_press(2)) == 130
    assert fit("sft", tmp_path / "parts", files, base, *more, "--ckpt_path=last") == 0
    assert_same_run(tmp_path / "whole/sft", tmp_path / "parts/sft")


def test_a_longer_training_continues_a_finished_one(
    tmp_path: Path, files: Files, tiny_model: Path, trained: Path
) -> None:
    start = _start("ppo", trained, tiny_model, files)
    assert fit("ppo", tmp_path, files, *start, "--model.iterations=2") == 0
    assert fit("ppo", tmp_path, files, *start, "--ckpt_path=last") == 0
    assert column(tmp_path / "ppo/logs/metrics.csv", "ppo/iteration") == [1.0, 2.0, 3.0, 4.0]
    assert_equal(weights(trained / "ppo"), weights(tmp_path / "ppo"))


def test_rows_after_the_checkpoint_are_cut(tmp_path: Path, files: Files, tiny_model: Path, trained: Path) -> None:
    start = _start("ppo", trained, tiny_model, files)
    assert fit("ppo", tmp_path, files, *start, *_press(1)) == 130
    log = tmp_path / "ppo/logs/metrics.csv"
    header = log.read_text().splitlines()[0].split(",")
    late = ["99" if name == "step" else "1.0" if name == "ppo/reward" else "" for name in header]
    log.write_text(log.read_text() + ",".join(late) + "\n")
    assert fit("ppo", tmp_path, files, *start, "--ckpt_path=last") == 0
    assert_same_run(trained / "ppo", tmp_path / "ppo")


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_last_is_the_last(trained: Path, stage: str) -> None:
    saved = torch.load(trained / stage / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == {"sft": 10, "rm": 6, "ppo": 8}[stage]


@pytest.mark.parametrize(("stage", "during", "steps"), [("sft", 7, 5), ("rm", 4, 3), ("ppo", 3, 4)])
def test_a_kill_loses_no_more_than_what_followed_the_last_validation(
    tmp_path: Path, files: Files, tiny_model: Path, trained: Path, stage: str, during: int, steps: int
) -> None:
    start = _start(stage, trained, tiny_model, files)
    kill = [PRESS.replace("PressCtrlC", "Kill"), f"--trainer.callbacks.during={during}"]
    with pytest.raises(KilledError):
        fit(stage, tmp_path, files, *start, *kill)
    saved = torch.load(tmp_path / stage / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == steps
    assert fit(stage, tmp_path, files, *start, "--ckpt_path=last") == 0
    assert_same_run(trained / stage, tmp_path / stage)
