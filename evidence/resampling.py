"""Intervals of figures that depend on several trainings and on the prompts that they are measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lit_instruct.evaluation.measures import Interval

RESAMPLES = 1000
Figures = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]
"""(numbers of trainings, numbers of prompts), either with repetitions -> figures by name."""


def over_seeds_and_prompts(
    figures: Figures, seeds: int, prompts: int, seed: int = 0, n: int = RESAMPLES
) -> dict[str, Interval]:
    """Returns each figure with its 95 % percentile bootstrap interval over trainings and prompts.

    Each resample draws trainings and, independently, prompts with replacement. What `figures` computes from one draw is
    paired: a difference of two systems on the same prompts, or of two trainings with the same seed. The bootstrap sees
    (n - 1) / n of the variance between n trainings, so with three that part of the interval is a fifth too narrow.

    Args:
        figures: computes what is wanted from the trainings and prompts that were drawn.
        seeds: number of trainings.
        prompts: number of prompts.
        seed: of the resampling.
        n: number of resamples, at least 1.
    """
    rng = np.random.default_rng(seed)
    found = figures(np.arange(seeds), np.arange(prompts))
    drawn = [figures(rng.integers(0, seeds, seeds), rng.integers(0, prompts, prompts)) for _ in range(n)]
    ends = {name: np.quantile([one[name] for one in drawn], [0.025, 0.975]) for name in found}
    return {name: Interval(float(value), *map(float, ends[name])) for name, value in found.items()}


def mean_gaps(gaps: Mapping[str, np.ndarray], n: int = RESAMPLES) -> dict[str, Interval]:
    """Returns the mean of each table with its interval by `over_seeds_and_prompts`.

    Args:
        gaps: name -> (trainings, prompts), such as scores of one system minus those of another.
        n: number of resamples.
    """

    def figures(seeds: np.ndarray, prompts: np.ndarray) -> dict[str, float]:
        return {name: float(gap[np.ix_(seeds, prompts)].mean()) for name, gap in gaps.items()}

    seeds, prompts = next(iter(gaps.values())).shape
    return over_seeds_and_prompts(figures, seeds, prompts, n=n)
