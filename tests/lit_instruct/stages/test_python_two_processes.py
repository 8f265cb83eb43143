"""Two processes from Python, with the Trainer's defaults, train what one trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lit_instruct.stages.helpers import assert_equal, weights
from tests.lit_instruct.stages.python_user import main

pytestmark = pytest.mark.slow


def two(stage: str, folder: Path, base: Path, how: str) -> subprocess.CompletedProcess[str]:
    """Runs the program in two processes."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.lit_instruct.stages.python_user", stage, str(folder), str(base), "2", how]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "LIT_INSTRUCT_CACHE": str(folder / "cache")}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=400)


@pytest.mark.parametrize(("stage", "how"), [("sft", "loader"), ("rm", "loader"), ("ppo", "loader"), ("sft", "own")])
def test_they_train_what_one_trains(stage: str, how: str, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "one").mkdir()
    main(stage, tmp_path / "one", str(tiny_model), 1, how)
    done = two(stage, tmp_path / "two", tiny_model, how)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal(weights(tmp_path / "one" / stage), weights(tmp_path / "two" / stage), 1e-5)


def test_other_rows_in_each_process_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    done = two("sft", tmp_path / "two", tiny_model, "apart")
    assert done.returncode != 0
    assert "train_dataloader: the rows differ between the processes; give every process all rows" in done.stderr
