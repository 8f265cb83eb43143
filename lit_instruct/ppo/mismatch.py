"""Whether the engine sampled from the policy that is trained: its log-probabilities beside ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_instruct.batches import Rollout
from lit_instruct.errors import UserError
from lit_instruct.losses.divergence import kl_estimate
from lit_instruct.ppo.ranks import Ranks

FAR = math.log(2)
"""A token is far off if one side makes it more than twice as probable as the other."""


def with_sampled(rollout: Rollout, rows: Sequence[int], log_probs: Sequence[Sequence[float]] | None) -> Rollout:
    """Returns a rollout with the log-probabilities that the engine sampled its rows with.

    Args:
        rollout: of a micro-batch.
        rows: its row numbers.
        log_probs: of each row of the batch, one per token; None if the engine does not say.
    """
    if log_probs is None:
        return rollout
    flat = torch.tensor([value for row in rows for value in log_probs[row]], device=rollout.log_probs.device)
    theirs = torch.zeros_like(rollout.log_probs).masked_scatter(rollout.response_mask, flat)
    return rollout._replace(sampler_log_probs=theirs)


@dataclass
class Mismatch:
    """Measures how far the engine's log-probabilities are from ours, and stops the run beyond a bound."""

    bound: float | None = None
    """Most nats a token; None for no limit."""
    top_p: float = 1.0
    """Of sampling: what it leaves out moves the engine's log-probabilities by -ln(top_p) at most, beside the bound."""

    def __call__(self, rollouts: Sequence[Rollout], ranks: Ranks) -> dict[str, float]:
        """Returns the figures of an iteration by their names in the log; none if the engine does not say.

        `rollout/mismatch_kl` estimates KL(engine || ours) in nats a token, which is 0 if both are one distribution;
        `rollout/mismatch_far` is the share of tokens whose ratio of probabilities is outside of [1/2, 2].

        Raises:
            UserError: the divergence is above the bound; on all processes.
        """
        if any(rollout.sampler_log_probs is None for rollout in rollouts):
            return {}
        sums = torch.stack([_sums(rollout) for rollout in rollouts]).sum(dim=0).cpu()
        tokens, kl, from_reference, far = ranks.sum(sums).tolist()
        figures = {"rollout/mismatch_kl": kl / tokens, "rollout/mismatch_far": far / tokens}
        if self.bound is not None and not figures["rollout/mismatch_kl"] <= self.bound - math.log(self.top_p):
            raise UserError(_sentence(figures, self.bound, from_reference / tokens))
        return figures


def _sums(rollout: Rollout) -> Tensor:
    """Tokens, divergence from the policy and from the reference, and tokens that are far off: (4,) float64."""
    assert rollout.sampler_log_probs is not None
    real = rollout.response_mask
    theirs, ours, reference = (
        values[real].double() for values in (rollout.sampler_log_probs, rollout.log_probs, rollout.reference_log_probs)
    )
    parts = [
        torch.ones_like(theirs),
        kl_estimate(theirs, ours, "k3"),
        kl_estimate(theirs, reference, "k3"),
        (theirs - ours).abs() > FAR,
    ]
    return torch.stack([part.double().sum() for part in parts])


def _sentence(figures: dict[str, float], bound: float, from_reference: float) -> str:
    kl, far = figures["rollout/mismatch_kl"], figures["rollout/mismatch_far"]
    if from_reference <= bound:
        cause = "they are those of the SFT model: the servers answer without the policy's adapter"
    elif far > 0.1:
        cause = "the servers have another base, an adapter of another shape, or another temperature"
    else:
        cause = "the servers compute in another dtype or with a quantised base; start them with the --dtype of the run"
    return (
        f"--model.rollouts.url: the servers' log-probabilities of what they sampled are {kl:.3g} nats a token from "
        f"ours ({far:.1%} of the tokens by a factor above 2), more than --model.rollouts.mismatch_bound={bound:g}: "
        f"{cause}. No weight was changed; `lit-instruct serve-rollouts --run RUN` prints how to start a server; resume "
        "with --ckpt_path=last"
    )
