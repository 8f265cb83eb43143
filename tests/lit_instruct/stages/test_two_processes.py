"""Two CPU processes train what one trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lit_instruct.stages.helpers import FLOAT, SMALL, Files, assert_equal, column, fit, rows_of, weights

pytestmark = pytest.mark.slow
MIX = ["--model.pretraining.ptx_coef=1.0", "--data.pretraining_block=16"]
UNEVEN = ["--model.objective.minibatches=4", "--model.objective.inner_epochs=2"]
SEVERAL = ["--model.objective.responses_per_prompt=2"]
"""Two prompts each, dealt over all processes: one may have both, or none."""


def both(stage: str, tmp_path: Path, files: Files, more: list[Any], halved: list[Any]) -> tuple[Path, Path]:
    """Trains with one process here and with two outside, and compares what they left."""
    assert fit(stage, tmp_path / "one", files, *more) == 0
    words = [*files.options(stage), *SMALL[stage], "--model.lora.top_layers=2", *FLOAT, *more, *halved]
    parallel = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [
        sys.executable,
        "-m",
        "lit_instruct.cli",
        stage,
        "fit",
        "--run",
        str(tmp_path / "two"),
        *words,
        *parallel,
    ]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return tmp_path / "one" / stage, tmp_path / "two" / stage


def assert_same(one: Path, two: Path) -> None:
    """Compares weights, records and every figure that is of all processes."""
    assert_equal(weights(one), weights(two), 1e-5)
    for left, right in zip(rows_of(one / "logs/metrics.csv"), rows_of(two / "logs/metrics.csv"), strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            if name != "train/pair_accuracy":  # a mean over processes, not over rows
                assert float(right[name]) == pytest.approx(float(value), abs=2e-5), (name, left["step"])
    records = [json.loads((folder / "stage.json").read_text()) for folder in (one, two)]
    assert records[0]["reward_bias"] == pytest.approx(records[1]["reward_bias"], abs=1e-5)


def test_sft(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    assert_same(*both("sft", tmp_path, files, [f"--model.base={tiny_model}"], ["--data.batch_size=2"]))


@pytest.mark.parametrize("groups", [[], ["--model.shared_prompt=on", "--model.max_tokens=60"]], ids=["", "groups"])
def test_reward_model(tmp_path: Path, trained: Path, files: Files, groups: list[str]) -> None:
    more = [f"--model.base={trained / 'sft'}", f"--data.demonstrations_path={files.sft}", *groups]
    assert_same(*both("rm", tmp_path, files, more, ["--data.batch_size=2"]))


def test_ppo_skips_a_step_on_both_or_on_none(tmp_path: Path, trained: Path, files: Files) -> None:
    """Only one of them sees the NaN reward."""
    start = [
        f"--model.base={trained / 'sft'}",
        "--model.reward.function=tests.lit_instruct.stages.rewards.not_a_number_for_the_ninth",
        "--model.optimizer.on_non_finite=skip",
        "--model.objective.whiten_advantages=false",  # so that other minibatches are not NaN as well
    ]
    one, two = both("ppo", tmp_path, files, start, [])
    assert_equal(weights(one), weights(two), 1e-5)
    skipped = [column(folder / "logs/metrics.csv", "ppo/skipped_steps") for folder in (one, two)]
    assert skipped[0] == skipped[1]
    assert 0 < sum(skipped[0]) < 8
    saved = {path.name for path in (two / "non_finite").iterdir()}
    assert saved
    assert all(name.endswith(("-process-0", "-process-1")) for name in saved)


def test_a_reward_that_fails_on_one_process_ends_both(tmp_path: Path, trained: Path, files: Files) -> None:
    function = "tests.lit_instruct.stages.rewards.raises_for_the_ninth"
    words = [
        *files.options("ppo"),
        *SMALL["ppo"],
        "--model.lora.top_layers=2",
        *FLOAT,
        f"--model.base={trained / 'sft'}",
    ]
    parallel = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "lit_instruct.cli", "ppo", "fit", "--run", str(tmp_path), *words, *parallel]
    done = subprocess.run(
        [*command, f"--model.reward.function={function}"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode != 0
    assert "it raised ValueError: nine (row " in done.stdout + done.stderr
    saved = torch.load(tmp_path / "ppo/checkpoints/last.ckpt", weights_only=True)
    assert saved["ppo"]["iterations_done"] == 1


@pytest.mark.parametrize(
    "more",
    [UNEVEN, MIX, [*MIX, *UNEVEN], SEVERAL],
    ids=["uneven minibatches", "mix", "uneven mix", "several responses"],
)
def test_ppo(tmp_path: Path, trained: Path, files: Files, more: list[str]) -> None:
    start = [f"--model.base={trained / 'sft'}", f"--model.reward.model={trained / 'rm'}"]
    one, two = both("ppo", tmp_path, files, [*start, f"--data.pretraining_path={files.text}", *more], [])
    assert_same(one, two)
    samples = [
        [json.loads(line) for line in (run / "logs/samples.jsonl").read_text().splitlines()] for run in (one, two)
    ]
    assert [row["response"] for row in samples[0]] == [row["response"] for row in samples[1]]
    assert [row["prompt"] for row in samples[0]] == 2 * [
        json.loads(line)["prompt"] for line in files.ppo_validation.open()
    ]
