"""Callbacks by themselves: signals, putting files aside, the table of samples."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lit_instruct.running.callbacks import RunFiles
from lit_instruct.running.last_checkpoint import LastCheckpoint


@pytest.fixture
def no_handler() -> Any:
    """Puts the process's own handler back, whatever a test does."""
    earlier = signal.getsignal(signal.SIGINT)
    yield earlier
    signal.signal(signal.SIGINT, earlier)


def test_the_first_ctrl_c_waits_and_the_second_does_not(tmp_path: Path, no_handler: Any) -> None:
    callback = LastCheckpoint(tmp_path / "last.ckpt")
    callback.on_fit_start()
    os.kill(os.getpid(), signal.SIGINT)
    assert callback.pressed
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    callback.teardown()
    assert signal.getsignal(signal.SIGINT) is no_handler


def _earlier_run(folder: Path) -> None:
    for name in ("logs/metrics.csv", "checkpoints/last.ckpt", "logs/samples.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


TRAINER: Any = SimpleNamespace(is_global_zero=True, loggers=[])


def test_files_of_an_earlier_run_go_aside_and_those_of_this_one_stay(tmp_path: Path) -> None:
    _earlier_run(tmp_path)
    (tmp_path / "previous/4").mkdir(parents=True)
    (tmp_path / "previous/notes").mkdir()
    callback = RunFiles(tmp_path, resuming=False)
    (tmp_path / "logs/new").write_text("of this run")
    callback.on_train_start(TRAINER, TRAINER)
    assert (tmp_path / "previous/5/logs/metrics.csv").read_text() == "logs/metrics.csv"
    assert (tmp_path / "previous/5/checkpoints/last.ckpt").is_file()
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["new"]


def test_resuming_and_other_processes_move_nothing(tmp_path: Path) -> None:
    _earlier_run(tmp_path)
    RunFiles(tmp_path, resuming=True).on_train_start(TRAINER, TRAINER)
    other: Any = SimpleNamespace(is_global_zero=False, loggers=[])
    RunFiles(tmp_path, resuming=False).on_train_start(other, other)
    assert (tmp_path / "logs/metrics.csv").is_file()
    assert not (tmp_path / "previous").exists()
