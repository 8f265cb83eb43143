"""From scores to advantages and returns: shaping, the KL penalty of eq. 2, GAE, whitening."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lit_instruct.batches import Rollout
from lit_instruct.losses.advantages import generalized_advantages, token_rewards
from lit_instruct.losses.divergence import Estimator, kl_estimate
from lit_instruct.losses.leave_one_out import leave_one_out
from lit_instruct.losses.masked import Moments, masked_moments, whiten
from lit_instruct.ppo.objective import ObjectiveOptions
from lit_instruct.ppo.options import RewardOptions
from lit_instruct.ppo.ranks import Ranks


class Target(NamedTuple):
    """The targets of one micro-batch's update."""

    scores: Tensor
    """(B,) float32, shaped scores: normalised, scaled, clipped, with the penalty for a missing EOS."""
    advantages: Tensor
    """(B, R) float32, whitened over the global batch if `--model.objective.whiten_advantages` is set."""
    returns: Tensor
    """(B, R) float32, targets of the value function."""


@dataclass
class Targets:
    """Computes the targets of all micro-batches of an iteration, with statistics over all processes."""

    reward: RewardOptions
    objective: ObjectiveOptions
    estimator: Estimator
    """Estimator of the KL."""
    ranks: Ranks
    value_lambda: float | None = None
    """Lambda of the value function's returns; None is that of the advantages."""

    def __post_init__(self) -> None:
        self.score_moments = Moments(*torch.zeros(3, dtype=torch.float64))
        """Moments of all scores so far, if they are normalised."""

    def __call__(
        self, rollouts: Sequence[Rollout], kl_coef: float, rows: Sequence[Sequence[int]] = ()
    ) -> tuple[list[Target], float]:
        """Returns the target of each micro-batch, and the standard deviation of the advantages before whitening.

        Args:
            rollouts: one per micro-batch.
            kl_coef: beta of eq. 2.
            rows: row numbers of each micro-batch in the iteration's batch, in which the responses to a prompt stand in
                succession; needed only with several responses to a prompt.
        """
        masks = [rollout.response_mask for rollout in rollouts]
        scores = self.shape(rollouts)
        rewards = []
        for rollout, shaped in zip(rollouts, self._compared(scores, rows), strict=True):
            kl = kl_estimate(rollout.log_probs, rollout.reference_log_probs, self.estimator)
            rewards.append(token_rewards(shaped, kl, rollout.response_mask, kl_coef))
        if self.reward.whiten:
            rewards = self._whitened(rewards, masks, keep_mean=True)
        advantages, returns = self._estimates(rollouts, rewards)
        spread = float(self.ranks.masked_moments(advantages, masks).variance.sqrt())
        if self.objective.whiten_advantages:
            advantages = self._whitened(advantages, masks)
        return [Target(*parts) for parts in zip(scores, advantages, returns, strict=True)], spread

    def _compared(self, scores: list[Tensor], rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Counts scores from those of the other responses to their prompts, if there are several."""
        per_prompt = self.objective.responses_per_prompt
        if per_prompt == 1:
            return scores
        together = torch.cat(scores)
        prompts = torch.tensor([row // per_prompt for part in rows for row in part], device=together.device)
        return list(leave_one_out(together, prompts).split([len(part) for part in rows]))

    def _estimates(self, rollouts: Sequence[Rollout], rewards: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns advantages and returns of each micro-batch, each by its own lambda."""

        def by(gae_lambda: float) -> list[tuple[Tensor, Tensor]]:
            return [
                generalized_advantages(r, rollout.values, rollout.response_mask, self.objective.discount, gae_lambda)
                for r, rollout in zip(rewards, rollouts, strict=True)
            ]

        own = by(self.objective.gae_lambda)
        learnt = own if self.value_lambda is None else by(self.value_lambda)
        return [advantages for advantages, _ in own], [returns for _, returns in learnt]

    def shape(self, rollouts: Sequence[Rollout]) -> list[Tensor]:
        """Returns the shaped scores, (B,) of each micro-batch, and adds the scores to the moments for normalisation."""
        if self.reward.normalize:
            raw = torch.cat([rollout.scores for rollout in rollouts]).cpu()
            fresh = self.ranks.moments([masked_moments(raw, raw.isfinite())])
            self.score_moments = Moments(*(old + new for old, new in zip(self.score_moments, fresh, strict=True)))
        return [self._shaped(rollout.scores, rollout.ended) for rollout in rollouts]

    def _shaped(self, scores: Tensor, ended: Tensor) -> Tensor:
        options = self.reward
        if options.normalize:
            scores = whiten(scores, torch.ones_like(scores, dtype=torch.bool), self.score_moments)
        scores = scores * options.scale
        if options.clip is not None:
            scores = scores.clamp(-options.clip, options.clip)
        if options.missing_eos_score is not None:
            return scores.where(ended, options.missing_eos_score)
        return scores - options.missing_eos_penalty * ~ended

    def _whitened(self, values: list[Tensor], masks: list[Tensor], keep_mean: bool = False) -> list[Tensor]:
        moments = self.ranks.masked_moments(values, masks)
        return [whiten(v, mask, moments, keep_mean) for v, mask in zip(values, masks, strict=True)]
