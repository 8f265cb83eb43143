"""Intervals over trainings and prompts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evidence.claims import above
from evidence.resampling import mean_gaps, over_seeds_and_prompts
from lit_instruct.evaluation.measures import Interval


def test_the_point_estimate_takes_every_training_and_prompt_once() -> None:
    seen = []

    def figures(seeds: np.ndarray, prompts: np.ndarray) -> dict[str, float]:
        seen.append((seeds.tolist(), prompts.tolist()))
        return {"sum": float(seeds.sum() + prompts.sum())}

    found = over_seeds_and_prompts(figures, 2, 3, n=4)
    assert seen[0] == ([0, 1], [0, 1, 2])
    assert len(seen) == 5
    assert found["sum"].mean == 4.0


def test_the_interval_is_that_of_a_sum_of_two_normal_means() -> None:
    draw = np.random.default_rng(0)
    of_seed, of_prompt = draw.normal(0, 1.0, 60), draw.normal(0, 2.0, 200)
    table = of_seed[:, None] + of_prompt[None, :]
    found = over_seeds_and_prompts(lambda s, p: {"mean": float(table[np.ix_(s, p)].mean())}, 60, 200, n=2000)["mean"]
    half = 1.96 * math.sqrt(of_seed.var() / 60 + of_prompt.var() / 200)
    assert found.mean == pytest.approx(table.mean())
    assert found.ci_low == pytest.approx(table.mean() - half, abs=0.05)
    assert found.ci_high == pytest.approx(table.mean() + half, abs=0.05)


def test_differences_are_paired() -> None:
    theirs = np.random.default_rng(0).normal(0, 10, (3, 20))
    ours = theirs + 0.5
    found = over_seeds_and_prompts(
        lambda s, p: {"gain": float(ours[np.ix_(s, p)].mean() - theirs[np.ix_(s, p)].mean())}, 3, 20, n=50
    )
    assert found["gain"] == pytest.approx((0.5, 0.5, 0.5))


def test_equal_seeds_give_equal_intervals() -> None:
    table = np.random.default_rng(0).normal(size=(3, 9))
    one, same, other = (
        over_seeds_and_prompts(lambda s, p: {"mean": float(table[np.ix_(s, p)].mean())}, 3, 9, seed=seed, n=20)
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_mean_gaps_are_those_of_a_loop_over_the_same_draws() -> None:
    table = np.random.default_rng(0).normal(size=(3, 9))
    found = mean_gaps({"gap": table}, n=20)["gap"]
    rng, drawn = np.random.default_rng(0), []
    for _ in range(20):
        seeds, prompts = rng.integers(0, 3, 3), rng.integers(0, 9, 9)
        drawn.append(sum(table[seed, prompt] for seed in seeds for prompt in prompts) / 27)
    assert found == pytest.approx((table.mean(), *np.quantile(drawn, [0.025, 0.975])))


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 0.2, True), (-0.2, -0.1, False), (-0.1, 0.1, None), (0, 1, None)]
)
def test_above_zero(low: float, high: float, expected: bool | None) -> None:
    assert above(Interval(0.0, low, high)) is expected
