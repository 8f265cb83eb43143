"""How both sides of a benchmark train: shared settings, and clocks for both trainers' loops."""

from __future__ import annotations

import json
import time
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from transformers import TrainerCallback

from benchmarks.harness import DEMO, peak_bytes, reset_peak, resident_bytes, scratch_folder
from lit_instruct.models.dtype import choose_dtype
from lit_instruct.models.embedded import NAME
from lit_instruct.models.loading import find_source, load_config
from lit_instruct.models.lora import LoraOptions
from lit_instruct.prompting import Prompter
from lit_instruct.running.metrics_file import MetricsFile
from lit_instruct.stages.options import OptimizerOptions

LORA = LoraOptions()
"""Rank 16 on every linear layer of every decoder layer."""
SEED = 0
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
PROMPTS = DEMO / "prompts_train.jsonl"


class Memory:
    """Peak memory of a training, counted from the loaded model."""

    def start(self) -> None:
        """Records the memory of the loaded model."""
        reset_peak()
        self.loaded = resident_bytes()

    def found(self) -> dict[str, int]:
        """Bytes at the peak, and by how many that exceeds the loaded model."""
        peak = peak_bytes()
        return {"peak_bytes": peak, "loaded_bytes": self.loaded, "growth_bytes": peak - self.loaded}


class StepMarks:
    """When optimizer steps end; the first mark is the start of the first step."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def begin(self) -> None:
        """Starts the clock, once."""
        if not self.marks:
            self.end()

    def end(self) -> None:
        """Ends a step."""
        self.marks.append(time.perf_counter())

    @property
    def step_seconds(self) -> list[float]:
        """Seconds of each step; from the second on, the time between two steps counts as well."""
        return [end - start for start, end in pairwise(self.marks)]


class OurClock(StepMarks, Callback):
    """Times the steps of Lightning's loop, and notes losses and the memory that the loaded model holds."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.losses: list[float] = []

    def on_train_start(self, *_: Any) -> None:
        """The model is loaded."""
        self.memory.start()

    def on_train_batch_start(self, *_: Any) -> None:
        """Starts the clock."""
        self.begin()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Ends a step."""
        self.end()
        self.losses.append(round(float(trainer.callback_metrics["train/loss"]), 5))


class TRLClock(StepMarks, TrainerCallback):
    """Times the steps of transformers' loop."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Starts the clock."""
        self.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Ends a step."""
        self.end()


def now() -> float:
    """Seconds, after all work on the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def dtype() -> torch.dtype:
    """The dtype of frozen weights, and of autocast, that the stages choose on this CPU for the embedded model."""
    return choose_dtype("auto", torch.device("cpu"), load_config(find_source(NAME))).dtype


def demo_prompts(prompter: Prompter, count: int) -> list[list[int]]:
    """Returns the token ids of the demo's first prompts."""
    with PROMPTS.open(encoding="utf-8") as file:
        return [prompter.prompt_ids(json.loads(line)["prompt"]) for line in islice(file, count)]


def fit_ours(
    module: lightning.LightningModule,
    data: lightning.LightningDataModule,
    callbacks: list[Callback],
    epochs: int = 1,
    steps: int | None = None,
    device: str = "cpu",
    frozen: torch.dtype | None = None,
) -> None:
    """Trains a stage as `lit-instruct STAGE fit` does, loggers included, without checkpoints and validation.

    Args:
        module: a stage.
        data: its DataModule.
        callbacks: such as a clock.
        epochs: over the data; -1 continues until the module ends the training.
        steps: batches per epoch; None takes all.
        device: cpu or cuda.
        frozen: of `trainer_of`; None takes `dtype()`.
    """
    more = {"max_epochs": epochs, "limit_train_batches": steps, "limit_val_batches": 0, "accelerator": device}
    with scratch_folder() as folder:
        trainer_of(Path(folder), callbacks, frozen or dtype(), **more).fit(module, datamodule=data)


def trainer_of(folder: Path, callbacks: list[Callback], frozen: torch.dtype, **more: Any) -> lightning.Trainer:
    """Returns Lightning's Trainer as a stage sets it up, with `more` arguments, without checkpoints and progress bar.

    Logs go into `folder`. The dtype of the `frozen` weights decides the precision.
    """
    return lightning.Trainer(
        devices=1,
        precision="bf16-mixed" if frozen == torch.bfloat16 else "32-true",
        logger=[MetricsFile(folder / "logs"), TensorBoardLogger(folder, name="logs", version="")],
        callbacks=callbacks,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=folder,
        **more,
    )


def trl_settings(folder: Path, optimizer: OptimizerOptions, micro_batch: int, accumulate: int) -> dict[str, Any]:
    """Returns settings with which TRL's trainers take the steps of our stage: optimizer, precision, order of rows.

    A step takes `accumulate` micro-batches of `micro_batch` rows. Nothing is saved in `folder`.
    """
    return {
        "output_dir": str(folder),
        "report_to": [],
        "use_cpu": True,
        "bf16": dtype() == torch.bfloat16,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": SEED,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulate,
        "learning_rate": optimizer.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": optimizer.final_share},
        "weight_decay": optimizer.weight_decay,
        "adam_beta2": optimizer.beta2,
        "max_grad_norm": 0.0,
    }
