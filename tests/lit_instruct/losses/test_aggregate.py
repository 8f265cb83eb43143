"""Scores of several reward models as one."""

from __future__ import annotations

import statistics

import pytest
import torch

from lit_instruct.losses.aggregate import Aggregate, aggregate

SCORES = torch.tensor([[1.0, 3.0, 5.0], [2.0, 2.0, 2.0], [-4.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("how", "expected"),
    [("mean", [3.0, 2.0, -1.0]), ("min", [1.0, 2.0, -4.0]), ("mean_minus_std", [3 - 1.632993, 2.0, -1 - 2.160247])],
)
def test_literal(how: Aggregate, expected: list[float]) -> None:
    scores, std = aggregate(SCORES, how)
    torch.testing.assert_close(scores, torch.tensor(expected))
    torch.testing.assert_close(std, torch.tensor([statistics.pstdev(row) for row in SCORES.tolist()]))


def test_the_coefficient_multiplies_the_deviation() -> None:
    scores, std = aggregate(SCORES, "mean_minus_std", 2.0)
    torch.testing.assert_close(scores, SCORES.mean(dim=1) - 2 * std)


@pytest.mark.parametrize("how", ["mean", "min", "mean_minus_std"])
def test_one_reward_model_is_its_own_score_to_the_bit(how: Aggregate) -> None:
    one = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    scores, std = aggregate(one, how)
    assert torch.equal(scores, one[:, 0])
    assert (std == 0).all()
