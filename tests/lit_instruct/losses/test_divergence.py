"""The three divergence estimators: literals, and what they estimate."""

from __future__ import annotations

import pytest
import torch

from lit_instruct.losses.divergence import Estimator, adapted_kl_coef, kl_estimate


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [0.6931472, 0.0, -0.6931472]),
        ("k2", [0.2402265, 0.0, 0.2402265]),
        ("k3", [0.1931472, 0.0, 0.3068528]),  # 1/2 - 1 + ln 2 and 2 - 1 - ln 2
    ],
)
def test_literals(estimator: Estimator, expected: list[float]) -> None:
    policy = torch.tensor([0.5, 0.3, 0.25]).log()
    reference = torch.tensor([0.25, 0.3, 0.5]).log()
    torch.testing.assert_close(kl_estimate(policy, reference, estimator), torch.tensor(expected))


def test_k1_is_the_default() -> None:
    assert kl_estimate(torch.tensor([-1.0]), torch.tensor([-3.0])).item() == 2.0


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_mean_under_the_policy_is_the_divergence(estimator: Estimator) -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 50, generator=generator, dtype=torch.float64).log_softmax(dim=-1)
    exact = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((policy.exp() * kl_estimate(policy, reference, estimator)).sum(), exact)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(6.0, 0.1), (6.6, 0.101), (5.4, 0.099), (60.0, 0.102), (0.0, 0.098), (-3.0, 0.098)],
    ids=["on target", "10 % above", "10 % below", "far above", "far below", "negative"],
)
def test_the_coefficient_follows_the_divergence(kl: float, expected: float) -> None:
    assert adapted_kl_coef(0.1, kl, target=6.0, gain=0.1) == pytest.approx(expected)
    assert adapted_kl_coef(0.2, kl, target=6.0, gain=0.1) == pytest.approx(2 * expected)
