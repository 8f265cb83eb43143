"""PPO-ptx: gradients of next-token prediction on pretraining text, mixed into every step (eq. 2, last term; C.4)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from data_modules.batching.pretraining import PretrainingText
from lit_instruct.models.roles import Roles
from lit_instruct.models.sharding import in_step
from lit_instruct.ppo.options import PretrainingOptions
from lit_instruct.ppo.ranks import Ranks


class PretrainingMix:
    """Adds gamma times the mean next-token loss to the gradients of the policy.

    Args:
        roles: with the policy.
        text: blocks of pretraining tokens.
        options: gamma, and sequences per episode.
        episodes: of one optimizer step, over all processes.
        micro_batch_size: blocks in one forward and backward pass.
        ranks: processes that share the blocks of a step.
        offloading: context of forward passes.
    """

    def __init__(
        self,
        roles: Roles,
        text: PretrainingText,
        options: PretrainingOptions,
        episodes: float,
        micro_batch_size: int,
        ranks: Ranks,
        offloading: AbstractContextManager[Any],
    ) -> None:
        self.roles = roles
        self.text = text
        self.coef = options.ptx_coef
        self.blocks = max(1, round(options.ptx_batch_ratio * episodes))
        self.micro_batch_size = micro_batch_size
        self.ranks = ranks
        self.offloading = offloading

    def backward(self, step: int) -> float:
        """Adds the gradients of one optimizer step; returns this process's share of the loss, before gamma.

        Args:
            step: number of the optimizer step since the training began, which chooses the blocks.
        """
        blocks = self.text.batch(step, self.blocks)
        mean_over = blocks[:, 1:].numel()
        blocks = blocks.tensor_split(self.ranks.count)[self.ranks.rank].to(self.ranks.device)
        total = 0.0
        for part in in_step([*blocks.split(self.micro_batch_size)], blocks[:0], self.roles):
            with self.offloading:
                hidden = self.roles.hidden("policy", part, torch.ones_like(part, dtype=torch.bool))
            found = self.roles.token_log_probs("policy", hidden[:, :-1].flatten(0, 1), part[:, 1:].flatten())
            loss = -found.log_probs.sum() / mean_over
            (self.coef * self.ranks.gradient_scale * loss).backward()
            total += float(loss)
        return total
