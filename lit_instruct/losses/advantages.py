"""From one score a response to a reward, an advantage and a return a token."""

from __future__ import annotations

import torch
from torch import Tensor


def token_rewards(scores: Tensor, kl: Tensor, response_mask: Tensor, kl_coef: float) -> Tensor:
    """Returns reward_t = -kl_coef * kl_t, plus the score at the last real token.

    Args:
        scores: (B,) reward of each whole response; higher is better.
        kl: (B, R) per-token divergence estimate in nats, policy from reference.
        response_mask: (B, R) bool, True is real, a prefix of each row.
        kl_coef: beta of eq. 2; higher holds the policy closer to the reference.

    Source: section 3.5, eq. 2: the KL term is paid per token, the reward at the end.
    """
    rewards = -kl_coef * kl * response_mask
    last = response_mask.sum(dim=1) - 1
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def generalized_advantages(
    rewards: Tensor, values: Tensor, response_mask: Tensor, discount: float = 1.0, gae_lambda: float = 0.95
) -> tuple[Tensor, Tensor]:
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
