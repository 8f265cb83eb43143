"""From one score per response to a reward, an advantage and a return per token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def token_rewards(
    scores: Float[Tensor, " B"], kl: Float[Tensor, "B R"], response_mask: Bool[Tensor, "B R"], kl_coef: float
) -> Float[Tensor, "B R"]:
    """Returns reward_t = -kl_coef * kl_t, plus the score at the last real token.

    Args:
        scores: (B,) reward of each whole response; higher is better.
        kl: (B, R) per-token estimate of the KL from policy to reference, in nats.
        response_mask: (B, R) bool, True is real, a prefix of each row.
        kl_coef: beta of eq. 2; higher holds the policy closer to the reference.

    Source: section 3.5, eq. 2: the KL penalty is subtracted per token, the reward is added at the end.
    """
    rewards = -kl_coef * kl * response_mask
    last = response_mask.sum(dim=1) - 1
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def generalized_advantages(
    rewards: Float[Tensor, "B R"],
    values: Float[Tensor, "B R"],
    response_mask: Bool[Tensor, "B R"],
    discount: float = 1.0,
    gae_lambda: float = 0.95,
) -> tuple[Float[Tensor, "B R"], Float[Tensor, "B R"]]:
    """Returns advantages and returns by generalized advantage estimation.

    delta_t = r_t + discount * V_{t+1} - V_t,  A_t = delta_t + discount * gae_lambda * A_{t+1},  G_t = A_t + V_t,
    with V and A zero after the last real token.

    Args:
        rewards: (B, R) reward for the token at t.
        values: (B, R) value of the state before the token at t.
        response_mask: (B, R) bool, True is real, a prefix of each row.
        discount: gamma of reinforcement learning; 1 in the paper ("no discount", C.4).
        gae_lambda: between bias (0) and variance (1); the paper does not say, 0.95 is usual.

    Returns:
        (B, R) advantages and (B, R) returns, 0 where masked.

    Source: Schulman et al. 2016 (arXiv 1506.02438), eq. 16.
    """
    rewards, values = rewards * response_mask, values * response_mask
    next_values = torch.nn.functional.pad(values[:, 1:], (0, 1))
    deltas = (rewards + discount * next_values - values) * response_mask
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[:, 0])
    for step in range(deltas.shape[1] - 1, -1, -1):
        running = deltas[:, step] + discount * gae_lambda * running
        advantages[:, step] = running
    return advantages, (advantages + values) * response_mask
