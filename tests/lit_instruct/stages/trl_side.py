"""TRL by itself, for comparison: its tokenisation, its collator, its loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoTokenizer, Trainer, TrainerCallback

from lit_instruct.stages.options import OptimizerOptions

CONSTANT = OptimizerOptions(learning_rate=1e-3, final_share=1.0)
"""Options of our side; those of TRL's side are equal."""


class Gradients(TrainerCallback):
    """Gradients of every optimizer step, under the names that they have on our side."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Copies them."""
        named = kwargs["model"].named_parameters()
        self.steps.append({f"network.{name}": p.grad.clone() for name, p in named if p.grad is not None})


def train_by_trl(
    trainer: type[Trainer],
    config: type[Any],
    network: nn.Module,
    folder: Path,
    model: Path,
    rows: list[dict[str, str]],
    **options: Any,
) -> tuple[Trainer, list[dict[str, Tensor]]]:
    """Three steps of four rows each, in their order.

    Args:
        trainer: SFTTrainer or RewardTrainer.
        config: its configuration class.
        network: what is trained.
        folder: to write into.
        model: where the tokenizer lies.
        rows: in TRL's layout.
        options: further ones of the configuration.

    Returns:
        The trainer after its training, and the gradients of each step.
    """

    class InOrder(trainer):  # type: ignore[misc, valid-type]
        """Takes the rows in order, so that both sides see the same batches."""

        def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    gradients = Gradients()
    arguments = config(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=3,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        max_grad_norm=0.0,
        bf16=False,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        max_length=None,
        gradient_checkpointing=False,
        **options,
    )
    trained = InOrder(
        model=network,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[gradients],
    )
    trained.train()
    return trained, gradients.steps
