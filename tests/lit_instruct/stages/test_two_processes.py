"""Two CPU processes train what one trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lit_instruct.stages.helpers import FLOAT, SMALL, Files, assert_equal, fit, rows_of, weights

pytestmark = pytest.mark.slow
OWN = {  # the batch of a process is half as large; PPO's is that of all processes
    "sft": ["--data.batch_size=2"],
    "rm": ["--data.batch_size=2"],
    "ppo": [],
}


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_two_processes_equal_one(tmp_path: Path, trained: Path, files: Files, tiny_model: Path, stage: str) -> None:
    more: list[Any] = {
        "sft": [f"--model.base={tiny_model}"],
        "rm": [f"--model.base={trained / 'sft'}", f"--data.demonstrations_path={files.sft}"],
        "ppo": [
            f"--model.base={trained / 'sft'}",
            f"--model.reward={trained / 'rm'}",
            "--model.pretraining.ptx_coef=1.0",
            f"--data.pretraining_path={files.text}",
            "--data.pretraining_block=16",
            "--model.ppo.minibatches=3",
            "--model.ppo.inner_epochs=2",
        ],
    }[stage]
    assert fit(stage, tmp_path / "one", files, *more) == 0
    words = [*files.options(stage), *SMALL[stage], "--model.lora.top_layers=2", *FLOAT, *more, *OWN[stage]]
    parallel = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "lit_instruct.cli", stage, "fit", "--run", str(tmp_path / "two"), *words, *parallel]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = tmp_path / "one" / stage, tmp_path / "two" / stage
    assert_equal(weights(one), weights(two), 1e-5)
    for left, right in zip(rows_of(one / "logs/metrics.csv"), rows_of(two / "logs/metrics.csv"), strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            if name not in ("train/pair_accuracy", "ppo/explained_variance"):  # of one process by their nature
                assert float(right[name]) == pytest.approx(float(value), abs=2e-5), (name, left["step"])
    records = [json.loads((folder / "stage.json").read_text()) for folder in (one, two)]
    assert records[0]["reward_bias"] == pytest.approx(records[1]["reward_bias"], abs=1e-5)
