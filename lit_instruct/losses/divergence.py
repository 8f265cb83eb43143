"""Estimators of the KL divergence between policy and reference from sampled tokens."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def kl_estimate(
    log_probs: Float[Tensor, "*shape"], reference_log_probs: Float[Tensor, "*shape"], estimator: Estimator = "k1"
) -> Float[Tensor, "*shape"]:
    """Returns a per-token estimate of KL(policy || reference) from tokens that the policy sampled.

    With d = log pi(a) - log pi_ref(a): k1 = d (unbiased, can be negative), k2 = d^2 / 2 (low variance, biased),
    k3 = exp(-d) - 1 + d (unbiased, never negative).

    Args:
        log_probs: any shape, log-probabilities in nats under the policy.
        reference_log_probs: same shape, under the reference.
        estimator: which formula.

    Source: eq. 2 of the paper uses k1; Schulman 2020, "Approximating KL divergence", for all three.
    """
    log_ratio = log_probs - reference_log_probs
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio**2 / 2
    return (-log_ratio).exp() - 1 + log_ratio


def adapted_kl_coef(kl_coef: float, kl: float, target: float, gain: float = 0.1) -> float:
    """Returns the next coefficient of the KL penalty, by proportional control in log space.

    e = clamp((kl - target) / target, -0.2, 0.2);  beta' = beta (1 + gain e).

    Args:
        kl_coef: beta of this iteration.
        kl: mean KL of its responses to the reference, in nats per response.
        target: the KL wanted, in nats per response, above 0.
        gain: K_beta; 0.1 in the source.

    Source: Ziegler et al. 2019 (arXiv 1909.08593), section 2.2.
    """
    error = min(max((kl - target) / target, -0.2), 0.2)
    return kl_coef * (1 + gain * error)
