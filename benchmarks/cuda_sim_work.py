"""What trainings of `benchmarks.cuda_sim` run: a stage on the pretended device, its steps counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from benchmarks.cuda_sim_patches import pretend
from benchmarks.pretended_cuda import Pretended, running
from lit_instruct.cli import main as command_line

STEPS = {"sft": 3, "rm": 3, "ppo": 2}
"""Optimizer steps or iterations; the first, in which models are probed, is not counted."""


class Window(Callback):
    """Counts in the training steps after the first alone."""

    steps = 0

    def __init__(self) -> None:
        Window.steps = -1
        running().counting = False

    def on_train_batch_start(self, *_: Any) -> None:
        """Starts to count with the second step."""
        Window.steps += 1
        running().counting = Window.steps > 0

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Stops counting: what follows is validation or a checkpoint."""
        running().counting = False


def words_of(stage: str, folder: Path, options: list[str]) -> list[str]:
    """Returns the command of a stage on the data in a folder."""
    steps = f"--model.iterations={STEPS[stage]}" if stage == "ppo" else f"--trainer.max_steps={STEPS[stage]}"
    sizes = ["--model.sampling.max_new_tokens=40", "--model.objective.minibatches=2"] if stage == "ppo" else []
    return [
        *(stage, "fit", f"--run={folder / 'run'}", f"--data.path={folder / stage}.jsonl", steps, *sizes),
        f"--data.batch_size={8 if stage == 'ppo' else 4}",
        *("--check_memory=false", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.logger=false"),
        *("--data.validation_share=0", "--trainer.enable_progress_bar=false", "--model.dtype=float32"),
        "--trainer.callbacks+=benchmarks.cuda_sim_work.Window",
        *options,
    ]


def measured(device: Pretended) -> dict[str, Any]:
    """Returns what was counted per step, by function of ours."""

    def per_step(counted: Counter[str]) -> dict[str, float]:
        return {name: round(count / Window.steps, 2) for name, count in sorted(counted.items()) if count}

    return {
        "waits": per_step(device.waits),
        "copies": per_step(device.copies),
        "float32 products": per_step(device.wide),
        "refused": dict(device.refused),
    }


def train(stage: str, folder: Path, options: list[str]) -> dict[str, Any]:
    """Trains a stage on the pretended device; returns the exit code and what was counted."""
    with pretend() as device:
        code = command_line(words_of(stage, folder, options))
    return {"exit_code": code} | (measured(device) if Window.steps > 0 else {})
