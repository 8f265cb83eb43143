"""Two processes that shard all weights (FSDP2) train what one process trains, interrupted and resumed."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.lit_instruct.stages.helpers import FLOAT, SMALL, Files, column, fit
from tests.lit_instruct.stages.test_two_nodes import TORCHRUN, interrupted, launch
from tests.lit_instruct.stages.test_two_processes import MIX, assert_same

pytestmark = pytest.mark.slow
ALL_WEIGHTS = "--model.lora=null"


def assert_both_train_the_same(
    stage: str, folder: Path, files: Files, runs: dict[str, list[Any]], refused: list[Any] | None = None
) -> str:
    """Trains each run in one process here and in two outside, there interrupted and resumed, and compares.

    Args:
        stage: of all runs.
        folder: for everything.
        files: data.
        runs: by a name, what the run is given beside the data.
        refused: what a run is given that has to end on both processes; what they say is returned.
    """
    halved = [] if stage == "ppo" else ["--data.batch_size=2"]
    how = [ALL_WEIGHTS, "--trainer.strategy=fsdp2", *TORCHRUN, "--trainer.enable_progress_bar=false", *halved]
    jobs: list[list[str]] = []
    for name, more in runs.items():
        words = [stage, "fit", "--run", folder / name, *files.options(stage), *SMALL[stage], *FLOAT, *more, *how]
        jobs += [[str(word) for word in [*words, last]] for last in (interrupted(2), "--ckpt_path=last")]
    if refused is not None:
        words = [stage, "fit", "--run", folder / "refused", *files.options(stage), *SMALL[stage], *FLOAT]
        jobs.append([str(word) for word in [*words, *refused, *how]])
    (folder / "jobs.json").write_text(json.dumps(jobs))
    results, output = launch(folder)
    codes = [[job["code"] for job in rank] for rank in results]
    ended = [] if refused is None else [2]
    assert codes == [[130, 0] * len(runs) + ended, [0, 0] * len(runs) + ended], output[-3000:]
    for name, more in runs.items():
        assert fit(stage, folder / f"{name}-alone", files, *more, lora=ALL_WEIGHTS) == 0
        assert_same(folder / f"{name}-alone" / stage, folder / name / stage)
    return "".join(rank[-1]["said"] for rank in results)


def test_reward_model(tmp_path: Path, trained: Path, files: Files) -> None:
    """The processes have different numbers of groups and of forwards; a prompt is computed again in the last."""
    start = [f"--model.base={trained / 'sft'}", "--data.limit=11", f"--data.demonstrations_path={files.sft}"]
    shared = [*start, "--model.shared_prompt=on"]
    runs = {
        "whole": [*start, "--trainer.gradient_clip_val=0.5", "--model.memory.gradient_checkpointing=true"],
        "groups": [*shared, "--model.max_tokens=60"],
        "again": [*shared, "--model.max_tokens=25"],
    }
    assert_both_train_the_same("rm", tmp_path, files, runs)


UNEVEN = [
    "--model.memory.generation_batch_size=2",
    "--model.objective.minibatches=4",
    f"--model.sampling.stop_ids={list(range(3, 400, 4))}",
]
"""The processes have different numbers of decodings, of parts to score and of micro-batches, one of them none."""


def untied(tiny_model: Path, folder: Path) -> Path:
    """A random model whose output embedding is not its input embedding."""
    shutil.copytree(tiny_model, folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForCausalLM(LlamaConfig.from_pretrained(folder, tie_word_embeddings=False)).save_pretrained(folder)
    return folder


def test_ppo(tmp_path: Path, trained: Path, files: Files) -> None:
    start = [f"--model.base={trained / 'sft'}", f"--model.reward.model={trained / 'rm'}", *UNEVEN]
    runs = {
        "mix": [*start, *MIX, f"--data.pretraining_path={files.text}", "--model.memory.gradient_checkpointing=true"],
        "average": [
            *start,
            "--model.value.start=policy_trunk",
            "--model.objective.inner_epochs=2",
            "--model.optimizer.ema_decay=0.5",
            "--model.selection.metric=val/reward",
        ],
    }
    assert_both_train_the_same("ppo", tmp_path, files, runs)
    for name in runs:
        assert set(column(tmp_path / name / "ppo/logs/metrics.csv", "ppo/first_ratio_error")) == {0.0}


def test_ppo_with_a_reward_function(tmp_path: Path, trained: Path, files: Files, tiny_model: Path) -> None:
    """One that breaks on one process ends both; the model's output embedding is not its input embedding."""
    function = "--model.reward.function=tests.lit_instruct.stages.rewards."
    runs = {"untied": [f"--model.base={untied(tiny_model, tmp_path / 'base')}", f"{function}letters", *UNEVEN]}
    refused = [f"--model.base={trained / 'sft'}", f"{function}raises_for_the_ninth"]
    said = assert_both_train_the_same("ppo", tmp_path, files, runs, refused)
    assert "it raised ValueError: nine (row " in said
    assert "another process stopped" in said


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def shards(folder: Path, marker: Path) -> Path:
    """A folder as Lightning knows one, in which everything that may be a pickle makes the marker."""
    folder.mkdir()
    for name in (".metadata", "meta.pt", "__0_0.distcp"):
        (folder / name).write_bytes(pickle.dumps(Touches(marker)))
    return folder


def test_damaged_and_foreign_checkpoints(tmp_path: Path, tiny_model: Path, files: Files) -> None:
    """Each gets one sentence on both processes, nothing in them is run, and what was trained before is kept."""
    assert fit("sft", tmp_path / "alone", files, f"--model.base={tiny_model}", lora=ALL_WEIGHTS) == 0
    good = tmp_path / "alone/sft/checkpoints/last.ckpt"
    saved = torch.load(good, weights_only=True)
    name = next(iter(saved["state_dict"]))
    fewer = saved | {"state_dict": {key: value for key, value in saved["state_dict"].items() if key != name}}
    marker = tmp_path / "unpickled"
    given = {
        "folder": (shards(tmp_path / "folder", marker), "is a folder of shards, which torch reads with pickle"),
        "cut": (tmp_path / "cut.ckpt", "is damaged or not a checkpoint ("),
        "code": (tmp_path / "code.ckpt", "is damaged or not a checkpoint ("),
        "another's": (tmp_path / "other.ckpt", "is not a checkpoint of a stage ("),
        "fewer weights": (tmp_path / "fewer.ckpt", f"does not fit this model ({name}: None there"),
    }
    (tmp_path / "cut.ckpt").write_bytes(good.read_bytes()[:5000])
    torch.save(saved | {"options": Touches(marker)}, tmp_path / "code.ckpt")
    torch.save({"state_dict": saved["state_dict"]}, tmp_path / "other.ckpt")
    torch.save(fewer, tmp_path / "fewer.ckpt")
    words = ["sft", "fit", "--run", tmp_path / "run", *files.options("sft"), *SMALL["sft"], *FLOAT, ALL_WEIGHTS]
    words += [
        f"--model.base={tiny_model}",
        "--trainer.strategy=fsdp2",
        *TORCHRUN,
        "--trainer.enable_progress_bar=false",
    ]
    jobs = [[*map(str, words), f"--ckpt_path={path}"] for path, _ in given.values()]
    (tmp_path / "jobs.json").write_text(
        json.dumps([*jobs, [*map(str, words), f"--ckpt_path={good}", "--trainer.max_epochs=3"]])
    )
    for rank in launch(tmp_path)[0]:
        for job, (path, said) in zip(rank, given.values(), strict=False):
            told = [line for line in job["said"].splitlines() if "error" in line]
            assert (job["code"], len(told)) == (2, 1), job["said"]
            assert "--ckpt_path" in told[0]
            assert said in told[0], path
            assert "Traceback" not in job["said"]
        assert rank[-1]["code"] == 0, rank[-1]["said"]
    assert not marker.exists()
