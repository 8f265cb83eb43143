"""Loss and pair accuracy that both sides of the reward benchmark reach on the same comparisons of the demo."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from transformers import TrainerCallback

from benchmarks.harness import DEMO
from benchmarks.rm_sides import new_network, train_pairs
from benchmarks.rm_work import pairs_of, steps_of
from benchmarks.training import LORA, SEED, dtype, fit_ours
from data_modules.batching.sampling import EpochBatchSampler
from data_modules.ranked_comparison import RankedComparisonDataModule
from lit_instruct.handover import prompter_of
from lit_instruct.losses.ranking import ranking_loss
from lit_instruct.models.loading import find_source
from lit_instruct.models.rewards import RewardForward
from lit_instruct.stages.options import OptimizerOptions
from lit_instruct.stages.reward import RewardModule

OPTIMIZER = OptimizerOptions(learning_rate=3e-4)


@dataclass(frozen=True)
class Lesson:
    """What is trained, and on how much."""

    base: str  # model
    prompts: int  # trained on
    held_out: int  # prompts of the validation file that measure it
    epochs: int  # over the prompts
    batch_size: int  # prompts per optimizer step
    micro_batch: int  # pairs per forward of TRL

    def data(self) -> RankedComparisonDataModule:
        """The first comparisons of the demo."""
        paths = [str(DEMO / f"ranked_{part}.jsonl") for part in ("train", "validation")]
        sizes = {"limit": self.prompts, "batch_size": self.batch_size}
        data = RankedComparisonDataModule(*paths, on_long="drop", seed=SEED, **sizes)
        data.prompter = prompter_of(find_source(self.base))
        data.setup()
        return data


class Examiner:
    """Measures a network on the held-out prompts, and how long it trained up to then."""

    def __init__(self, lesson: Lesson, data: RankedComparisonDataModule) -> None:
        held_out = data.validation_dataset
        items = held_out.select(range(min(lesson.held_out, len(held_out)))).to_list()
        self.parts = lesson.epochs
        self.batches = [data.collate(items[start : start + 4]) for start in range(0, len(items), 4)]
        self.epochs: list[dict[str, float]] = []
        self.start()

    def start(self) -> None:
        """Starts the clock."""
        self.examining, self.began = 0.0, time.perf_counter()

    @torch.no_grad()
    def examine(self, network: nn.Module, step: int) -> None:
        """Notes loss (mean over prompts) and pair accuracy after an optimizer step."""
        start = time.perf_counter()
        trained = start - self.began - self.examining if step else 0.0
        was_training = network.training
        network.eval()
        loss, prompts, correct, pairs = torch.zeros(4)
        for batch in self.batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype() == torch.bfloat16):
                rewards = RewardForward(network).rewards(batch)
            found = ranking_loss(rewards, batch.ranks, batch.prompt_index)
            loss, prompts = loss + found.loss, prompts + found.prompts
            correct, pairs = correct + found.correct, pairs + found.pairs
        network.train(was_training)
        self.epochs.append(
            {
                "step": step,
                "loss": round(float(loss / prompts), 4),
                "pair_accuracy": round(float(correct / pairs), 4),
                "trained_s": round(trained, 1),
            }
        )
        self.examining += time.perf_counter() - start


class OurExaminer(Examiner, Callback):
    """Examines before the training and after each epoch of Lightning's loop."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Examines the untrained network and starts the clock."""
        self.examine(pl_module.network, 0)
        self.start()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Examines."""
        self.examine(pl_module.network, trainer.global_step)


class TRLExaminer(Examiner, TrainerCallback):
    """Examines after each of as many equal parts of transformers' loop as there are epochs."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Starts the clock."""
        self.start()

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        """Examines at the end of a part."""
        if state.global_step in {round(state.max_steps * part / self.parts) for part in range(1, self.parts + 1)}:
            self.examine(model, state.global_step)


def ours(**options: Any) -> dict[str, Any]:
    """Trains our reward stage on a Lesson and returns what was found before it and after each epoch."""
    lesson = Lesson(**options)
    data = lesson.data()
    examiner = OurExaminer(lesson, data)
    fit_ours(RewardModule(lesson.base, LORA, OPTIMIZER, seed=SEED), data, [examiner], lesson.epochs)
    return {"epochs": examiner.epochs}


def trl(**options: Any) -> dict[str, Any]:
    """Trains TRL's RewardTrainer on the pairs of the same prompts in the same order, in as many steps."""
    lesson = Lesson(**options)
    data = lesson.data()
    items = data.train_dataset.to_list()
    sampler = EpochBatchSampler(len(items), lesson.batch_size, SEED)
    batches = [rows for epoch in range(lesson.epochs) for rows in sampler.batches(epoch)]
    pairs = pairs_of([items[row] for rows in batches for row in rows])
    network, tokenizer = new_network(lesson.base)
    examiner = TRLExaminer(lesson, data)
    examiner.examine(network, 0)
    accumulate = steps_of(len(pairs), len(batches), lesson.micro_batch)
    train_pairs(network, tokenizer, pairs, lesson.micro_batch, accumulate, [examiner], OPTIMIZER)
    return {"epochs": examiner.epochs, "pairs": len(pairs)}
