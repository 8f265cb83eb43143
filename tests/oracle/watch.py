"""Watches an update of TRL's PPOTrainer from outside: copies what `train` holds at the calls that it makes anyhow."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from trl.experimental.ppo import PPOTrainer
from trl.experimental.ppo import ppo_trainer as trl_ppo

COPIED = ("query_responses", "responses", "logprobs", "ref_logprobs", "values", "scores", "padding_mask")
COPIED += ("padding_mask_p1", "rewards", "advantages", "returns")
"""Local variables of `PPOTrainer.train` when the first inner epoch begins."""


class Watch:
    """Copies what passes through one update of a trainer.

    Args:
        trainer: made, not yet trained.
    """

    def __init__(self, trainer: PPOTrainer) -> None:
        self.trainer = trainer
        self.tensors: dict[str, Tensor] = {}
        self.losses: list[dict[str, float]] = []
        self.gradient_norms: list[float] = []
        self.metrics: dict[str, float] = {}

    def train(self) -> None:
        """Trains under observation."""
        accelerator, optimizer = self.trainer.accelerator, self.trainer.optimizer.optimizer
        with ExitStack() as stack:
            for target, name, watched in (
                (trl_ppo, "batch_generation", self._generation),
                (np.random, "permutation", self._permutation),
                (accelerator, "backward", self._backward),
                (optimizer, "step", self._step),
                (self.trainer, "log", self._log),
            ):
                stack.enter_context(patch.object(target, name, watched(getattr(target, name))))
            self.trainer.train()

    def _generation(self, generation: Any) -> Any:
        def watched(model: Any, queries: Tensor, *more: Any) -> Any:
            sequences, logits = generation(model, queries, *more)
            responses = sequences[:, queries.shape[1] :]
            self.tensors["queries"] = queries.clone()
            self.tensors["generation_logprobs"] = logits.log_softmax(-1).gather(2, responses[..., None]).squeeze(2)
            return sequences, logits

        return watched

    def _permutation(self, permutation: Any) -> Any:
        def watched(count: int) -> Any:
            local = sys._getframe(1).f_locals
            order = permutation(count)
            if "ppo_epoch_idx" in local:
                number = local["ppo_epoch_idx"]
                self.tensors[f"permutation_{number}"] = torch.tensor(order)
                if number == 0:
                    self.tensors |= {name: local[name].clone() for name in COPIED}
            return order

        return watched

    def _backward(self, backward: Any) -> Any:
        def watched(loss: Tensor, **more: Any) -> None:
            local = sys._getframe(1).f_locals
            number = len(self.losses)
            self.losses.append({name: float(local[name].detach()) for name in ("loss", "pg_loss", "vf_loss")})
            for name, kept in (("new_logprobs", "new_logprobs"), ("vpred", "new_values")):
                self.tensors[f"{kept}_{number}"] = local[name].detach().clone()
            self.tensors[f"rows_{number}"] = torch.tensor(local["micro_batch_inds"])
            backward(loss, **more)

        return watched

    def _step(self, step: Any) -> Any:
        def watched(*args: Any, **more: Any) -> Any:
            groups = self.trainer.optimizer.optimizer.param_groups
            gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
            self.gradient_norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
            return step(*args, **more)

        return watched

    def _log(self, log: Any) -> Any:
        def watched(logs: dict[str, float], *more: Any) -> None:
            self.metrics |= {name: float(value) for name, value in logs.items()}
            log(logs, *more)

        return watched
