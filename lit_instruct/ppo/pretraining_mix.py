"""PPO-ptx: gradients of next-token prediction on pretraining text, mixed into every step (eq. 2, last term; C.4)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data_modules.batching.pretraining import PretrainingText
from lit_instruct.models.roles import Roles
from lit_instruct.models.sharding import in_step
from lit_instruct.ppo.ranks import Ranks


@dataclass
class PretrainingMix:
    """Adds gamma times the mean next-token loss to the gradients of the policy."""

    roles: Roles
    text: PretrainingText
    coef: float
    """gamma."""
    blocks: int
    """Blocks of text in one optimizer step, over all processes."""
    micro_batch_size: int
    """Blocks in one forward and backward pass."""
    ranks: Ranks
    offloading: AbstractContextManager[Any]
    """Context of forward passes."""

    def backward(self, step: int) -> Tensor:
        """Adds the gradients of one optimizer step; returns this process's share of the loss, before gamma: ().

        Args:
            step: number of the optimizer step since the training began, which chooses the blocks.
        """
        blocks = self.text.batch(step, self.blocks)
        mean_over = blocks[:, 1:].numel()
        blocks = blocks.tensor_split(self.ranks.count)[self.ranks.rank].to(self.ranks.device)
        total = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for part in in_step([*blocks.split(self.micro_batch_size)], blocks[:0], self.roles):
            with self.offloading:
                hidden = self.roles.hidden("policy", part, None)
            found = self.roles.token_log_probs("policy", hidden[:, :-1].flatten(0, 1), part[:, 1:].flatten())
            loss = -found.log_probs.sum() / mean_over
            (self.coef * self.ranks.gradient_scale * loss).backward()
            total += loss.detach()
        return total
