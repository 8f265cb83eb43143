"""The clipped losses of PPO, as sums over tokens: the caller divides by the token count of the global minibatch."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lit_instruct.losses.masked import Moments


def clipped_policy_loss(
    log_probs: Float[Tensor, "B R"],
    old_log_probs: Float[Tensor, "B R"],
    advantages: Float[Tensor, "B R"],
    mask: Bool[Tensor, "B R"],
    clip_range: float = 0.2,
    dual_clip: float | None = None,
    weights: Float[Tensor, "B R"] | None = None,
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Returns the summed clipped surrogate loss and the number of tokens whose ratio was clipped.

    ratio = exp(log pi - log pi_old);  loss = sum max(-A ratio, -A clamp(ratio, 1 - c, 1 + c)), with dual clipping at
    most -A d where A < 0: a bad token that has become far more probable pushes no harder than at a ratio of d.

    Args:
        log_probs: (B, R) log-probabilities of the sampled tokens now, with gradient.
        old_log_probs: (B, R) those when the tokens were sampled.
        advantages: (B, R) higher is better.
        mask: (B, R) bool, True is real.
        clip_range: c, the ratio's allowed distance from 1; 0.2 in C.4.
        dual_clip: d, above 1 + c; None does not limit.
        weights: (B, R) factor of each token's loss, such as `importance_weights`; None weighs all alike.

    Returns:
        () loss and () count.

    Source: Schulman et al. 2017 (arXiv 1707.06347), eq. 7; dual clipping: Ye et al. 2020 (arXiv 1912.09729), eq. 5.
    """
    ratio = ((log_probs - old_log_probs) * mask).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    loss, held = torch.maximum(plain, clipped), clipped > plain
    if dual_clip is not None:
        most = -advantages * dual_clip
        beyond = (advantages < 0) & (loss > most)
        loss, held = torch.where(beyond, most, loss), held | beyond
    if weights is not None:
        loss = loss * weights
    return (loss * mask).sum(), (held & mask).sum()


def importance_weights(
    log_probs: Float[Tensor, "B R"], sampler_log_probs: Float[Tensor, "B R"], cap: float
) -> Float[Tensor, "B R"]:
    """Returns min(pi_old / pi_sampler, cap) per token, which corrects for tokens drawn from another distribution.

    Weights per token stay near 1; their product over a long response would not.

    Args:
        log_probs: (B, R) log pi_old, from the forward pass that the update uses.
        sampler_log_probs: (B, R) log-probabilities by which the tokens were drawn.
        cap: the largest weight.

    Source: Ionides 2008, "Truncated Importance Sampling"; Yao et al. 2025, "Your Efficient RL Framework Secretly
    Brings You Off-Policy RL Training", for its use with another engine's samples.
    """
    return (log_probs - sampler_log_probs).exp().clamp(max=cap)


def clipped_value_loss(
    values: Float[Tensor, "B R"],
    old_values: Float[Tensor, "B R"],
    returns: Float[Tensor, "B R"],
    mask: Bool[Tensor, "B R"],
    clip_range: float | None = 0.2,
) -> Float[Tensor, ""]:
    """Returns the summed value loss: sum max((V - G)^2, (clamp(V, V_old - c, V_old + c) - G)^2) / 2.

    Args:
        values: (B, R) values now, with gradient.
        old_values: (B, R) values when the tokens were sampled.
        returns: (B, R) targets.
        mask: (B, R) bool, True is real.
        clip_range: c; None does not clip.

    Source: Ziegler et al. 2019 (arXiv 1909.08593) and its public code; clip 0.2 as for the policy (C.4).
    """
    loss = (values - returns) ** 2
    if clip_range is not None:
        held = old_values + (values - old_values).clamp(-clip_range, clip_range)
        loss = torch.maximum(loss, (held - returns) ** 2)
    return (loss * mask).sum() / 2


def explained_variance(errors: Moments, returns: Moments) -> Float[Tensor, ""]:
    """Returns () 1 - Var(G - V) / Var(G): 1 is a perfect value function, 0 or less explains nothing.

    Args:
        errors: of G - V over the real tokens of the global batch.
        returns: of G over the same.
    """
    return 1 - errors.variance / returns.variance.clamp(min=1e-8)
