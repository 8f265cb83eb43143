"""Tiny data for every stage, and runs of the command line inside this process."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torch import Tensor

from lit_instruct.cli import main

WORDS = ["the", "cat", "dog", "house", "tree", "good", "bad", "runs", "sings", "sleeps", "sun", "rain"]
QUICK = ("--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.devices=1")
FLOAT = ("--model.dtype=float32",)
CLOCK = ("_seconds", "tokens_per_second")
"""Suffixes of the columns that differ from run to run."""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sentence(draw: random.Random, least: int = 2, most: int = 8) -> str:
    """A few words."""
    return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))


def demonstrations(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Demonstrations with responses of unequal lengths."""
    draw = random.Random(seed)
    return [{"prompt": f"{sentence(draw)} {i}", "response": sentence(draw, 1, 9)} for i in range(count)]


def comparisons(count: int, seed: int = 0, k: int | None = None) -> list[dict[str, Any]]:
    """Ranked comparisons with some ties, and K from 2 to 5 or as given."""
    draw, rows = random.Random(seed + 1), []
    for i in range(count):
        size = k or draw.randint(2, 5)
        ranks = draw.sample(range(1, size + 1), size)
        if size > 2 and i % 3 == 0:
            ranks = [min(rank, size - 1) for rank in ranks]
        answers = [f"{sentence(draw, 1, 6)} {j}" for j in range(size)]
        rows.append({"prompt": f"{sentence(draw)} {i}", "responses": answers, "ranks": ranks})
    return rows


def prompts(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Prompts of unequal lengths."""
    draw = random.Random(seed + 2)
    return [{"prompt": f"{sentence(draw, 1, 9)} {i}"} for i in range(count)]


class Files:
    """Data of the three stages in a folder."""

    def __init__(self, folder: Path) -> None:
        self.sft = write_rows(folder / "demonstrations.jsonl", demonstrations(20))
        self.sft_validation = write_rows(folder / "demonstrations_validation.jsonl", demonstrations(5, 1))
        self.rm = write_rows(folder / "ranked.jsonl", comparisons(12))
        self.rm_validation = write_rows(folder / "ranked_validation.jsonl", comparisons(5, 1))
        self.ppo = write_rows(folder / "prompts.jsonl", prompts(20))
        self.ppo_validation = write_rows(folder / "prompts_validation.jsonl", prompts(5, 1))
        self.text = folder / "pretraining.txt"
        draw = random.Random(3)
        self.text.write_text(" ".join(sentence(draw, 8, 8) for _ in range(60)))

    def options(self, stage: str) -> list[str]:
        """The --data options of a stage."""
        return [f"--data.path={getattr(self, stage)}", f"--data.validation_path={getattr(self, f'{stage}_validation')}"]


SMALL = {
    "sft": ["--trainer.max_epochs=2", "--data.batch_size=4"],
    "rm": ["--trainer.max_epochs=2", "--data.batch_size=4"],
    "ppo": [
        "--model.iterations=4",
        "--data.batch_size=8",
        "--model.objective.minibatches=2",
        "--model.memory.micro_batch_size=3",
        "--model.sampling.max_new_tokens=6",
        "--trainer.val_check_interval=2",
        "--trainer.check_val_every_n_epoch=null",
    ],
}
"""A short training of each stage."""


def run(*words: Any) -> int:
    """Runs the command line in this process and returns its exit code."""
    try:
        return main([str(word) for word in words])
    except SystemExit as error:  # of the argument parser
        return int(error.code or 0)


def fit(stage: str, folder: Path, files: Files, *more: Any, lora: str = "--model.lora.top_layers=2") -> int:
    """Trains a stage into a run folder on tiny data."""
    return run(stage, "fit", "--run", folder, *files.options(stage), *SMALL[stage], lora, *FLOAT, *QUICK, *more)


def rows_of(path: Path) -> list[dict[str, str]]:
    """metrics.csv without timings and empty cells."""
    with path.open(newline="") as file:
        return [
            {name: cell for name, cell in row.items() if cell and not name.endswith(CLOCK)}
            for row in csv.DictReader(file)
        ]


def column(path: Path, name: str) -> list[float]:
    """The filled cells of a column of metrics.csv."""
    return [float(row[name]) for row in rows_of(path) if name in row]


def weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a stage's adapter or model."""
    for name in ("adapter_model.safetensors", "model.safetensors"):
        if (folder / name).is_file():
            return load_file(folder / name)
    raise FileNotFoundError(folder)


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 0.0) -> None:
    """Compares named tensors."""
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


def snapshot(folder: Path, results_only: bool = False) -> dict[str, bytes]:
    """Every file of a run folder with its content, TensorBoard's own files left out.

    Args:
        folder: of the run.
        results_only: leaves logs and checkpoints out too, which a training that has begun puts aside.
    """
    kept = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        begun = any(part in ("logs", "checkpoints", "previous", "non_finite") for part in path.parts)
        if path.is_file() and "tfevents" not in name and not (results_only and begun):
            kept[name] = path.read_bytes()
    return kept


def plain_trainer(folder: Path, **options: Any) -> lightning.Trainer:
    """A Trainer as a Python user makes one, on the CPU, with one process unless `options` say more, and silent."""
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **({"devices": 1} | options),
    )


class Watch(Callback):
    """Keeps the gradients of every optimizer step and the training losses."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.losses: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Copies the gradients."""
        self.gradients.append({name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None})

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Keeps the loss."""
        if "train/loss" in trainer.callback_metrics:
            self.losses.append(float(trainer.callback_metrics["train/loss"]))


class PressCtrlC(Callback):
    """Sends Ctrl-C or another signal while a training batch runs.

    Args:
        during: batches begun before, over all epochs.
        number: of the signal.
    """

    def __init__(self, during: int, number: int = signal.SIGINT.value) -> None:
        self.left = during
        self.number = number

    def on_train_batch_start(self, *_: Any) -> None:
        """Counts batches and sends the signal."""
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        self.left -= 1


class KilledError(BaseException):
    """Ends a run as SIGKILL does: `except Exception` does not catch it, so nothing is saved on the way out."""


class Kill(PressCtrlC):
    """Kills the run instead of sending Ctrl-C."""

    def on_train_batch_start(self, *_: Any) -> None:
        """Counts batches and kills the run."""
        if self.left == 0:
            raise KilledError
        self.left -= 1
