"""The update: clipped steps on policy and value, with the pretraining mix (section 3.5, eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_instruct.batches import Rollout, around_response
from lit_instruct.losses.policy import clipped_policy_loss, clipped_value_loss
from lit_instruct.models.roles import Roles
from lit_instruct.models.sharding import in_step
from lit_instruct.ppo.collect import Rollouts
from lit_instruct.ppo.minibatches import idle_part, iteration_key, minibatch_order, regroup
from lit_instruct.ppo.non_finite import NonFinite, non_finite
from lit_instruct.ppo.options import ObjectiveOptions, ValueOptions
from lit_instruct.ppo.pretraining_mix import PretrainingMix
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.ppo.targets import Target

Minibatch = list[tuple[Rollout, Target]]
"""Micro-batches with their targets."""


class Optimizer(Protocol):
    """What the update needs of torch's optimizer, or of Lightning's around it."""

    param_groups: list[dict[str, Any]]
    """Of the policy, then of the value function."""

    def step(self) -> Any:
        """Takes a step."""

    def zero_grad(self) -> Any:
        """Clears the gradients."""


class Step(NamedTuple):
    """What one optimizer step found."""

    losses: dict[str, float]
    """Means over the tokens of the minibatch on all processes."""
    ratio_error: float
    """Largest |ratio - 1| of this process."""
    skipped: bool
    """Whether NaN or inf kept it from being taken."""


class Update(NamedTuple):
    """What the steps of one iteration found."""

    losses: dict[str, float]
    """Means over the steps."""
    first_ratio_error: float
    """Largest |ratio - 1| before the first step, which the policy that sampled should not have."""
    skipped_steps: int


class Updater:
    """Turns rollouts and targets into optimizer steps.

    Args:
        roles: the networks.
        objective: clip range, entropy bonus, passes and minibatches.
        value: clip range and coefficient of the value loss.
        temperature: that responses were sampled with.
        max_grad_norm: of policy and value, each.
        mix: the pretraining mix; None for plain PPO.
        guard: takes steps with NaN or inf.
        ranks: processes that sum their gradients.
        offloading: context of forward passes.
    """

    def __init__(
        self,
        roles: Roles,
        objective: ObjectiveOptions,
        value: ValueOptions,
        temperature: float,
        max_grad_norm: float,
        mix: PretrainingMix | None,
        guard: NonFinite,
        ranks: Ranks,
        offloading: AbstractContextManager[Any],
    ) -> None:
        self.roles = roles
        self.objective = objective
        self.value = value
        self.temperature = temperature
        self.max_grad_norm = max_grad_norm
        self.mix = mix
        self.guard = guard
        self.ranks = ranks
        self.offloading = offloading

    def run(self, rollouts: Rollouts, targets: Sequence[Target], optimizer: Optimizer, key: tuple[int, int]) -> Update:
        """Takes every step of an iteration: inner epochs x minibatches.

        Args:
            rollouts: of the iteration.
            targets: of each micro-batch.
            optimizer: with a group for the policy and one for the value function.
            key: (seed, iteration), which the order of minibatches and the pretraining text depend on.
        """
        grouped = regroup(list(zip(rollouts.parts, targets, strict=True)), rollouts.minibatches)
        order = [
            number
            for epoch in range(self.objective.inner_epochs)
            for number in minibatch_order(self.objective.minibatches, iteration_key(key) * 31 + epoch)
        ]
        before = key[1] * len(order)
        steps = [self.step(grouped[number], optimizer, before, place) for place, number in enumerate(order)]
        names = steps[0].losses
        return Update(
            losses={name: sum(step.losses[name] for step in steps) / len(steps) for name in names},
            first_ratio_error=steps[0].ratio_error,
            skipped_steps=sum(step.skipped for step in steps),
        )

    def step(self, minibatch: Minibatch, optimizer: Optimizer, before: int, place: int) -> Step:
        """Takes one optimizer step on one minibatch.

        Args:
            minibatch: this process's micro-batches of it.
            optimizer: with a group for the policy and one for the value function.
            before: optimizer steps of earlier iterations.
            place: number of the step in this iteration, from 0.
        """
        local = torch.tensor(float(sum(int(rollout.response_mask.sum()) for rollout, _ in minibatch)))
        tokens = float(self.ranks.sum(local))
        totals, ratio_error = torch.zeros(4), 0.0
        with self.ranks.no_sync():
            for rollout, target in in_step(minibatch, idle_part(self.ranks.device), self.roles):
                sums, error = self.backward(rollout, target, tokens)
                totals[:3] += sums
                ratio_error = max(ratio_error, error)
            if self.mix is not None:
                totals[3] = self.mix.backward(before + place)
        names = ["loss/policy", "loss/value", "ppo/clip_share"] + (["loss/pretraining"] if self.mix else [])
        losses = dict(zip(names, self.ranks.sum(totals).tolist(), strict=False))
        wrong = non_finite(losses | self.clip_gradients(optimizer))
        if wrong:
            self.guard.skip_step(minibatch, place + 1, wrong)
            optimizer.zero_grad()  # a step without gradients changes no weight, but it counts
        optimizer.step()
        optimizer.zero_grad()
        return Step(losses, ratio_error, bool(wrong))

    def backward(self, rollout: Rollout, target: Target, tokens: float) -> tuple[Tensor, float]:
        """Adds a micro-batch's gradients: backward for one role before the next role's adapter becomes active.

        Args:
            rollout: of the micro-batch.
            target: of the micro-batch.
            tokens: of the minibatch on all processes.

        Returns:
            Its parts of the policy loss, value loss and share of clipped tokens, (3,) on the CPU, and the largest
            |ratio - 1|.
        """
        roles, mask = self.roles, rollout.response_mask
        hidden = self._hidden("policy", rollout)
        log_probs, entropy = roles.response_log_probs(
            "policy",
            hidden,
            rollout.response_ids,
            mask,
            self.temperature,
            with_entropy=self.objective.entropy_coef != 0,
        )
        ratio_error = float((log_probs.detach() - rollout.log_probs).expm1().abs().max())
        policy_loss, clipped = clipped_policy_loss(
            log_probs, rollout.log_probs, target.advantages, mask, self.objective.clip_range
        )
        divisor = tokens / self.ranks.gradient_scale
        loss = (policy_loss - self.objective.entropy_coef * entropy.sum()) / divisor
        if not roles.value_on_policy:
            loss.backward()
            loss = torch.zeros_like(loss)
            hidden = self._hidden("value", rollout)
        value_loss = clipped_value_loss(
            roles.values(hidden, mask), rollout.values, target.returns, mask, self.value.clip_range
        )
        (loss + self.value.coef * value_loss / divisor).backward()
        return torch.stack([policy_loss.detach(), value_loss.detach(), clipped.float()]).cpu() / tokens, ratio_error

    def _hidden(self, role: Literal["policy", "value"], rollout: Rollout) -> Tensor:
        """Returns a role's states around the responses: (B, R + 1, H)."""
        with self.offloading:
            hidden = self.roles.hidden(role, rollout.input_ids, rollout.attention_mask, rollout.trunk)
        return around_response(hidden, rollout.prompt_length, rollout.response_mask)

    def clip_gradients(self, optimizer: Optimizer) -> dict[str, float]:
        """Sums gradients over processes and clips those of each role; returns their norms, the same on all."""
        norms = {}
        for role, group in zip(("policy", "value"), optimizer.param_groups, strict=True):
            self.ranks.sum_gradients(group["params"])
            norm = torch.nn.utils.clip_grad_norm_(group["params"], self.max_grad_norm)
            norms[f"the gradient of the {role}"] = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        return norms
