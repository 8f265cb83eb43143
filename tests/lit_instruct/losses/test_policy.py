"""The clipped losses of PPO: literals, counts, where gradients are zero, and a loop twin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_instruct.losses.masked import masked_moments
from lit_instruct.losses.policy import clipped_policy_loss, clipped_value_loss, explained_variance, importance_weights

# A good token and a bad one, each with a ratio of 1.5 and of 0.5; the last position is padding.
RATIOS = torch.tensor([[1.5, 0.5, 1.5, 0.5, 1.0, 1e6]])
ADVANTAGES = torch.tensor([[2.0, 2.0, -3.0, -3.0, 4.0, 1e6]])
MASK = torch.tensor([[True, True, True, True, True, False]])


def test_policy_loss_literal() -> None:
    new = RATIOS.log().requires_grad_()
    loss, clipped = clipped_policy_loss(new, torch.zeros_like(RATIOS), ADVANTAGES, MASK, 0.2)
    # -2 * 1.2, -2 * 0.5, 3 * 1.5, 3 * 0.8, -4 * 1
    torch.testing.assert_close(loss, torch.tensor(-2.4 - 1.0 + 4.5 + 2.4 - 4.0))
    assert clipped.item() == 2
    loss.backward()
    # d loss / d log pi = -A ratio where not clipped
    torch.testing.assert_close(new.grad, torch.tensor([[0.0, -1.0, 4.5, 0.0, -4.0, 0.0]]))


def test_dual_clip_limits_bad_tokens_alone() -> None:
    new = torch.tensor([[5.0, 2.0, 0.5, 5.0]]).log().requires_grad_()
    advantages = torch.tensor([[-1.0, -1.0, -1.0, 1.0]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    loss, clipped = clipped_policy_loss(new, torch.zeros(1, 4), advantages, mask, 0.2, dual_clip=3.0)
    # 3 instead of 5, 2, 0.8, and -1.2: a good token is clipped as ever
    torch.testing.assert_close(loss, torch.tensor(3.0 + 2.0 + 0.8 - 1.2))
    assert clipped.item() == 3
    loss.backward()
    torch.testing.assert_close(new.grad, torch.tensor([[0.0, 2.0, 0.0, 0.0]]))


def test_weights_correct_for_another_sampler() -> None:
    ours, theirs = torch.tensor([[0.5, 0.2, 0.9, 0.3]]).log(), torch.tensor([[0.25, 0.4, 0.1, 0.3]]).log()
    weights = importance_weights(ours, theirs, cap=2.5)
    torch.testing.assert_close(weights, torch.tensor([[2.0, 0.5, 2.5, 1.0]]))
    new = ours.clone().requires_grad_()
    mask = torch.ones(1, 4, dtype=torch.bool)
    loss, clipped = clipped_policy_loss(new, ours, torch.tensor([[1.0, -2.0, 3.0, 4.0]]), mask, weights=weights)
    torch.testing.assert_close(loss, torch.tensor(-2.0 + 1.0 - 7.5 - 4.0))
    assert clipped.item() == 0
    loss.backward()
    torch.testing.assert_close(new.grad, torch.tensor([[-2.0, 1.0, -7.5, -4.0]]))


def test_policy_loss_at_the_old_policy() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    advantages = torch.tensor([[1.0, -2.0, 9.0]])
    mask = torch.tensor([[True, True, False]])
    loss, clipped = clipped_policy_loss(log_probs, log_probs.detach(), advantages, mask)
    loss.backward()
    assert loss.item() == 1.0
    assert clipped.item() == 0
    torch.testing.assert_close(log_probs.grad, torch.tensor([[-1.0, 2.0, 0.0]]))


def test_policy_loss_survives_a_wild_ratio_behind_the_mask() -> None:
    new = torch.tensor([[0.0, 500.0]], requires_grad=True)  # exp(500) is infinite
    loss, _ = clipped_policy_loss(new, torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[True, False]]))
    loss.backward()
    assert loss.item() == -1.0
    assert new.grad is not None and new.grad.tolist() == [[-1.0, 0.0]]


def test_policy_loss_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    new, old, advantages = torch.randn(3, 4, 5, generator=generator)
    mask = torch.rand(4, 5, generator=generator) < 0.7
    total, count = 0.0, 0
    for a, n, o, real in zip(advantages.ravel(), new.ravel(), old.ravel(), mask.ravel(), strict=True):
        ratio = math.exp(float(n - o))
        held = min(max(ratio, 0.7), 1.3)
        if real:
            total += -min(float(a) * ratio, float(a) * held)
            count += float(a) * held < float(a) * ratio
    loss, clipped = clipped_policy_loss(new, old, advantages, mask, 0.3)
    assert math.isclose(loss.item(), total, rel_tol=1e-5)
    assert clipped.item() == count


def test_value_loss_literal() -> None:
    values = torch.tensor([[1.0, 1.0, 0.1, 5.0]], requires_grad=True)
    old = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    returns = torch.tensor([[2.0, 0.0, 1.0, 1e3]])
    mask = torch.tensor([[True, True, True, False]])
    # held values 0.2, 0.2, 0.1: max(1, 3.24), max(1, 0.04), 0.81
    loss = clipped_value_loss(values, old, returns, mask, 0.2)
    torch.testing.assert_close(loss, torch.tensor((3.24 + 1.0 + 0.81) / 2))
    loss.backward()
    torch.testing.assert_close(values.grad, torch.tensor([[0.0, 1.0, -0.9, 0.0]]))


def test_value_loss_without_clipping() -> None:
    values, returns = torch.tensor([[1.0, 4.0]]), torch.tensor([[3.0, 4.5]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert clipped_value_loss(values, torch.zeros(1, 2), returns, mask, None).item() == (4 + 0.25) / 2


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 3.0])

    def explained(values: Tensor, returns: Tensor) -> Tensor:
        everything = torch.ones_like(returns, dtype=torch.bool)
        return explained_variance(masked_moments(returns - values, everything), masked_moments(returns, everything))

    assert explained(returns + 7, returns).item() == 1.0  # a constant error is not variance
    assert explained(torch.zeros(2), returns).item() == 0.0
    assert explained(torch.tensor([3.0, 1.0]), returns).item() == -3.0
    assert torch.isfinite(explained(torch.tensor([0.0, 1.0]), torch.ones(2)))
