"""The update: clipped steps on policy and value, with the pretraining mix (section 3.5, eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lit_instruct.batches import Rollout, around_response
from lit_instruct.losses.policy import clipped_policy_loss, clipped_value_loss, importance_weights
from lit_instruct.models.finite import non_finite
from lit_instruct.models.roles import Roles
from lit_instruct.models.sharding import in_step
from lit_instruct.ppo.collect import Rollouts
from lit_instruct.ppo.minibatches import idle_part, iteration_key, minibatch_order, regroup
from lit_instruct.ppo.non_finite import NonFinite
from lit_instruct.ppo.objective import ObjectiveOptions, ValueOptions
from lit_instruct.ppo.phases import Phases
from lit_instruct.ppo.pretraining_mix import PretrainingMix
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.ppo.targets import Target

Minibatch = list[tuple[Rollout, Target]]
"""Micro-batches with their targets."""


class Step(NamedTuple):
    """The figures of one optimizer step."""

    losses: dict[str, float]
    """Means over the tokens of the minibatch on all processes, and the norms of the gradients before clipping."""
    ratio_error: float
    """Largest |ratio - 1| of this process."""
    skipped: bool
    """Whether the step was not taken because of NaN or inf."""


class Update(NamedTuple):
    """The figures of all steps of an iteration."""

    losses: dict[str, float]
    """Means over the steps."""
    first_ratio_error: float
    """Largest |ratio - 1| before the first step, when the policy is still the one that sampled: rounding at most."""
    skipped_steps: int

    def figures(self) -> dict[str, float]:
        """Returns the figures by their names in the log."""
        steps = {"ppo/first_ratio_error": self.first_ratio_error, "ppo/skipped_steps": float(self.skipped_steps)}
        return self.losses | steps


@dataclass
class Updater:
    """Turns rollouts and targets into optimizer steps."""

    roles: Roles
    objective: ObjectiveOptions
    value: ValueOptions
    temperature: float
    """The temperature that responses were sampled with."""
    max_grad_norm: float
    """The gradients of policy and of value are each clipped to this norm."""
    mix: PretrainingMix | None
    """The pretraining mix; None for plain PPO."""
    guard: NonFinite
    """Handles steps with NaN or inf."""
    ranks: Ranks
    offloading: AbstractContextManager[Any]
    """Context of forward passes."""
    phases: Phases = field(default_factory=Phases)
    importance_cap: float | None = None
    """Largest weight of a token that another engine sampled; None weighs all alike."""

    def run(self, rollouts: Rollouts, targets: Sequence[Target], optimizer: Optimizer, key: tuple[int, int]) -> Update:
        """Takes every step of an iteration: inner epochs x minibatches.

        Args:
            rollouts: of the iteration.
            targets: of each micro-batch.
            optimizer: has one parameter group for the policy, then one for the value function.
            key: (seed, iteration), on which the order of minibatches and the pretraining text depend.
        """
        grouped = regroup(list(zip(rollouts.parts, targets, strict=True)), rollouts.minibatches)
        order = [
            number
            for epoch in range(self.objective.inner_epochs)
            for number in minibatch_order(self.objective.minibatches, iteration_key(key) * 31 + epoch)
        ]
        before, frozen = key[1] * len(order), key[1] < self.value.warmup_iterations
        steps = []
        for place, number in enumerate(order):
            self.phases("update", place + 1, len(order))
            steps.append(self.step(grouped[number], optimizer, before, place, frozen))
        names = steps[0].losses
        return Update(
            losses={name: sum(step.losses[name] for step in steps) / len(steps) for name in names},
            first_ratio_error=steps[0].ratio_error,
            skipped_steps=sum(step.skipped for step in steps),
        )

    def step(self, minibatch: Minibatch, optimizer: Optimizer, before: int, place: int, frozen: bool = False) -> Step:
        """Takes one optimizer step on one minibatch.

        Args:
            minibatch: this process's micro-batches of it.
            optimizer: has one parameter group for the policy, then one for the value function.
            before: optimizer steps of earlier iterations.
            place: number of the step in this iteration, from 0.
            frozen: leaves the policy as it is.
        """
        local = torch.tensor(float(sum(rollout.tokens for rollout, _ in minibatch)))
        tokens = float(self.ranks.sum(local))
        mix = None if frozen else self.mix
        totals, ratio_error = torch.zeros(4, device=self.ranks.device), torch.zeros((), device=self.ranks.device)
        with self.ranks.no_sync():
            for rollout, target in in_step(minibatch, idle_part(self.ranks.device), self.roles):
                sums, error = self.backward(rollout, target, tokens, frozen)
                totals[:3] += sums
                ratio_error = torch.fmax(ratio_error, error)  # NaN has its own message
            if mix is not None:
                totals[3] = mix.backward(before + place)
        names = ["loss/policy", "loss/value", "ppo/clip_share"] + (["loss/pretraining"] if mix else [])
        losses = dict(zip(names, self.ranks.sum(totals).tolist(), strict=False))
        norms = self.clip_gradients(optimizer)
        wrong = non_finite(losses | {f"the gradient of the {role}": norm for role, norm in norms.items()})
        if frozen:
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad = None  # with zeros, as several processes sum them, weights would still decay
        if wrong:
            self.guard.skip_step(minibatch, place + 1, wrong)
            optimizer.zero_grad()  # a step without gradients changes no weight, but is counted
        optimizer.step()
        optimizer.zero_grad()
        losses |= {f"grad_norm/{role}": norm for role, norm in norms.items()}
        return Step(losses, float(ratio_error), bool(wrong))

    def backward(self, rollout: Rollout, target: Target, tokens: float, frozen: bool) -> tuple[Tensor, Tensor]:
        """Adds a micro-batch's gradients: each role's backward runs before the next role's adapter is activated.

        Args:
            rollout: the micro-batch.
            target: its targets.
            tokens: response tokens of the minibatch on all processes.
            frozen: leaves the policy without gradients.

        Returns:
            Its parts of policy loss, value loss and share of clipped tokens, (3,); the largest |ratio - 1|, ().
        """
        roles, mask = self.roles, rollout.response_mask
        bonus = self.objective.entropy_coef
        with torch.set_grad_enabled(not frozen):
            hidden = self._hidden("policy", rollout)
            log_probs, entropy = roles.response_log_probs(
                "policy", hidden, rollout.response_ids, mask, self.temperature, bonus != 0, rollout.places
            )
        ratio_error = (log_probs.detach() - rollout.log_probs).expm1().abs().max()
        clip, dual_clip = self.objective.clip_range, self.objective.dual_clip
        policy_loss, clipped = clipped_policy_loss(
            log_probs, rollout.log_probs, target.advantages, mask, clip, dual_clip, self._weights(rollout)
        )
        divisor = tokens / self.ranks.gradient_scale
        loss = (policy_loss - bonus * entropy.sum()) / divisor
        if not roles.value_on_policy:
            if not frozen:
                loss.backward()
            loss = torch.zeros_like(loss)
            hidden = self._hidden("value", rollout)
        value_loss = clipped_value_loss(
            roles.values(hidden, mask), rollout.values, target.returns, mask, self.value.clip_range
        )
        (loss + self.value.coef * value_loss / divisor).backward()
        return torch.stack([policy_loss.detach(), value_loss.detach(), clipped.float()]) / tokens, ratio_error

    def _weights(self, rollout: Rollout) -> Tensor | None:
        theirs = rollout.sampler_log_probs
        if self.importance_cap is None or theirs is None:
            return None
        return importance_weights(rollout.log_probs, theirs, self.importance_cap)

    def _hidden(self, role: Literal["policy", "value"], rollout: Rollout) -> Tensor:
        """Returns a role's states before each response token and after the last: (B, R + 1, H)."""
        with self.offloading:
            mask = rollout.attention_mask if rollout.places is None else None  # the collector pads on the right
            hidden = self.roles.hidden(role, rollout.input_ids, mask, rollout.trunk)
        return around_response(hidden, rollout.prompt_length, rollout.response_mask)

    def clip_gradients(self, optimizer: Optimizer) -> dict[str, float]:
        """Sums gradients over processes and clips those of each role.

        Returns:
            Role -> norm before clipping, equal on all processes.
        """
        norms = {}
        for role, group in zip(("policy", "value"), optimizer.param_groups, strict=True):
            self.ranks.sum_gradients(group["params"])
            norm = torch.nn.utils.clip_grad_norm_(group["params"], self.max_grad_norm)
            norms[role] = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return dict(zip(norms, torch.stack([*norms.values()]).tolist(), strict=True))
