"""Token rewards and generalized advantages against literals and the explicit sums."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_instruct.losses.advantages import generalized_advantages, token_rewards

GARBAGE = 1e6


def test_token_rewards_literal() -> None:
    kl = torch.tensor([[0.5, 1.0, GARBAGE], [0.1, 0.2, 0.3]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    rewards = token_rewards(torch.tensor([2.0, -1.0]), kl, mask, kl_coef=0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 1.9, 0.0], [-0.01, -0.02, -1.03]]))
    assert kl[0, 2] == GARBAGE, "the argument was changed in place"


def test_advantages_literal() -> None:
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 1.0, 1.5]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = generalized_advantages(rewards, values, mask, discount=0.9, gae_lambda=0.5)
    # deltas 1.4, 2.35, 1.5
    torch.testing.assert_close(advantages, torch.tensor([[2.76125, 3.025, 1.5]]))
    torch.testing.assert_close(returns, torch.tensor([[3.26125, 4.025, 3.0]]))


def _explicit(rewards: list[float], values: list[float], discount: float, gae_lambda: float) -> list[float]:
    following = [*values[1:], 0.0]
    deltas = [r + discount * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    return [
        sum((discount * gae_lambda) ** (later - t) * deltas[later] for later in range(t, len(deltas)))
        for t in range(len(deltas))
    ]


def _batch() -> tuple[Tensor, Tensor, Tensor, list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 4, 7, 6]
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    rewards, values = torch.randn(2, 4, 7, generator=generator, dtype=torch.float64)
    return rewards, values, mask, lengths


@pytest.mark.parametrize(("discount", "gae_lambda"), [(1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (1.0, 1.0)])
def test_advantages_equal_the_explicit_sum(discount: float, gae_lambda: float) -> None:
    rewards, values, mask, lengths = _batch()
    advantages, returns = generalized_advantages(
        rewards.masked_fill(~mask, GARBAGE), values.masked_fill(~mask, -GARBAGE), mask, discount, gae_lambda
    )
    for row, length in enumerate(lengths):
        expected = torch.tensor(
            _explicit(rewards[row, :length].tolist(), values[row, :length].tolist(), discount, gae_lambda),
            dtype=torch.float64,
        )
        torch.testing.assert_close(advantages[row, :length], expected)
        torch.testing.assert_close(returns[row, :length], expected + values[row, :length])
    assert (advantages[~mask] == 0).all()
    assert (returns[~mask] == 0).all()


def test_lambda_one_gives_the_reward_to_go() -> None:
    rewards, values, mask, lengths = _batch()
    _, returns = generalized_advantages(rewards, values, mask, 1.0, 1.0)
    for row, length in enumerate(lengths):
        to_go = [rewards[row, t:length].sum() for t in range(length)]
        torch.testing.assert_close(returns[row, :length], torch.stack(to_go))


def test_padding_further_changes_nothing() -> None:
    rewards, values, mask, _ = _batch()
    wide = [torch.nn.functional.pad(part, (0, 3)) for part in (rewards, values, mask)]
    narrow_result = generalized_advantages(rewards, values, mask)
    for narrow, padded in zip(narrow_result, generalized_advantages(*wide), strict=True):
        assert torch.equal(narrow, padded[:, :7])
