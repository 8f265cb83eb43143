"""Options that stages share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from lit_instruct.errors import UserError
from lit_instruct.models.finite import OnNonFinite
from lit_instruct.models.optimizers import OptimizerName, make_optimizer
from lit_instruct.prompting import Template


@dataclass
class OptimizerOptions:
    """AdamW with the paper's schedule for SFT and reward model: cosine to a tenth (C.1, C.2).

    Args:
        name: adamw, adamw_8bit (states in a quarter of the memory), paged_adamw_8bit (CUDA moves the states to the host
            when memory is short) or lion_8bit (an eighth; needs a third to a tenth of AdamW's learning rate).
        learning_rate: peak learning rate.
        final_share: final learning rate divided by the peak; 1 keeps it constant.
        warmup_steps: optimizer steps of linear warmup from 0 (none in the paper).
        weight_decay: decoupled weight decay.
        beta2: decay of the second moment; beta1 is 0.9.
        on_non_finite: what happens at NaN or inf in a loss or gradient: "stop" ends the training, "skip" skips that
            step.
    """

    name: OptimizerName = "adamw"
    learning_rate: float = 1e-4
    final_share: float = 0.1
    warmup_steps: int = 0
    weight_decay: float = 0.0
    beta2: float = 0.95
    on_non_finite: OnNonFinite = "stop"

    def __post_init__(self) -> None:
        """Refuses values that cannot train."""
        if self.learning_rate <= 0:
            raise UserError(f"--model.optimizer.learning_rate={self.learning_rate}: must be above 0")
        if not 0 <= self.final_share <= 1:
            raise UserError(f"--model.optimizer.final_share={self.final_share}: must be between 0 and 1")

    def share(self, step: int, total: int) -> float:
        """Returns the learning rate at a step, divided by the peak."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        progress = min(1.0, (step - self.warmup_steps) / max(1, total - self.warmup_steps))
        return self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * progress)) / 2


@dataclass
class PromptOptions:
    """How prompts become token ids.

    Args:
        template: "chat" uses the tokenizer's chat template, "raw" leaves the text unchanged, "auto" is chat if the
            tokenizer has a template.
        system: system prompt for prompts without one.
    """

    template: Template = "auto"
    system: str | None = None


def configured(module: Any) -> dict[str, Any]:
    """Returns the optimizer of all trained weights of a module, with a cosine schedule over the whole training."""
    options: OptimizerOptions = module.optimizer_options
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(options.name, trained, options.learning_rate, options.beta2, options.weight_decay)
    # At step 0, the total would set up the loader before a checkpoint can restore its position.
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: options.share(step, int(module.trainer.estimated_stepping_batches) if step else 1)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
