"""Runs in separate processes, with one rank and two, killed by SIGKILL at random moments."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.lit_instruct.stages.helpers import QUICK
from tests.resume import rewards
from tests.resume.helpers import FULL, Runs, checkpoint, differences
from tests.resume.processes import kill, start, wait

pytestmark = pytest.mark.slow
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def sessions(words: list[str], folder: Path, cache: Path, ranks: int, kills: int, seed: int) -> None:
    """Starts a run and kills it at random moments, then lets it finish."""
    draw = random.Random(seed)
    for _ in range(kills):
        before = config_written(folder)
        processes = start(words, folder / "log", cache, ranks)
        wait_until_training(folder, before)
        time.sleep(draw.uniform(0, 1.5))
        kill(draw.sample(processes, draw.randint(1, ranks)))  # the others notice it, or are killed next
        kill(processes)
    assert set(wait(start(words, folder / "log", cache, ranks))) == {0}, (folder / "log").read_text()[-3000:]


def config_written(folder: Path) -> int:
    """When logs/config.yaml was last written, which happens when a training starts."""
    config = folder / "ppo/logs/config.yaml"
    return config.stat().st_mtime_ns if config.exists() else 0


def wait_until_training(folder: Path, before: int) -> None:
    """Waits until a training has started, up to ten seconds: a finished training does not start again."""
    for _ in range(200):
        if config_written(folder) != before:
            return
        time.sleep(0.05)


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_sigkill(tmp_path: Path, runs: Runs, request: pytest.FixtureRequest, tokens_folder: Path, full: bool) -> None:
    words = runs.options(tmp_path, "--ckpt_path=last", *(FULL if full else []))
    sessions(words, tmp_path, tokens_folder, 1, 2 if full else 3, seed=int(full))
    assert differences(request.getfixturevalue("whole_full" if full else "whole"), tmp_path) == []


def on_two(runs: Runs, folder: Path, *more: str) -> list[str]:
    """The command line of a run on two processes."""
    folder.mkdir(exist_ok=True)
    return [word for word in runs.options(folder, *TWO, *more) if word != QUICK[-1]]


def test_two_processes_full(tmp_path: Path, runs: Runs, tokens_folder: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert wait(start(on_two(runs, whole, *FULL), whole / "log", tokens_folder, 2)) == [0, 0]
    sessions(on_two(runs, parts, *FULL, "--ckpt_path=last"), parts, tokens_folder, 2, 1, seed=3)
    assert differences(whole, parts) == []


def test_two_processes(tmp_path: Path, runs: Runs, tokens_folder: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert wait(start(on_two(runs, whole), whole / "log", tokens_folder, 2)) == [0, 0]

    press = ["--trainer.callbacks+=tests.resume.processes.PressCtrlCOnOne", "--trainer.callbacks.during=0"]
    assert wait(start(on_two(runs, parts, *press), parts / "log", tokens_folder, 2)) == [130, 0]
    assert checkpoint(parts)["ppo"]["iterations_done"] == 1

    resume = on_two(runs, parts, "--ckpt_path=last")
    ask = [*resume, *press, f"--trainer.callbacks.number={signal.SIGTERM.value}"]
    assert wait(start(ask, parts / "log", tokens_folder, 2)) == [130, 0]
    assert checkpoint(parts)["ppo"]["iterations_done"] == 2

    broken = {rewards.BREAKS: "1:1"}  # the second process's first reward
    assert wait(start(resume, parts / "log", tokens_folder, 2, **broken)) == [2, 2]
    assert "the labeler has gone home" in (parts / "log").read_text()
    assert checkpoint(parts)["ppo"]["iterations_done"] == 2

    sessions(resume, parts, tokens_folder, 2, 2, seed=2)
    assert differences(whole, parts) == []
