"""How much of a score is length: preferring long texts is a known fault of reward models and of judges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lit_instruct.evaluation.measures import Interval, bootstrap, resamples
from lit_instruct.losses.correlation import correlation_given

LIKE = 1.25
"""Two responses are of like length if neither has more than this many times the tokens of the other."""


def alike(ours: Sequence[int] | np.ndarray, theirs: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns which pairs of responses are of like length, (n,) bool: ``1 / LIKE <= ours / theirs <= LIKE``.

    Args:
        ours: (n,) tokens.
        theirs: (n,) tokens of the responses that they are compared with.
    """
    one, other = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    return np.maximum(one, other) <= LIKE * np.minimum(one, other)


def correlation(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> float | None:
    """Returns Pearson's correlation of (n,) numbers with (n,) others; None if one of them is constant."""
    x, y = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if len(x) == 0 or min(np.ptp(x), np.ptp(y)) < 1e-12:  # rounding of equal numbers
        return None
    return float(np.corrcoef(x, y)[0, 1])


def partial_correlation(
    one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray, given: Sequence[float] | np.ndarray
) -> float | None:
    """Returns the correlation of x and y that is left when both are predicted from z by a line (`correlation_given`).

    Args:
        one: (n,) x, such as rewards.
        other: (n,) y, such as scores of a labeler.
        given: (n,) z, such as lengths; if it is constant, this is the plain correlation.

    Returns:
        None if x or y is constant, or a line in z.

    Source: Singhal et al. 2023 (arXiv 2310.03716) show how much of a reward is length, by correlations and by comparing
    responses of like length.
    """
    plain = correlation(one, other)
    with_one, with_other = correlation(one, given), correlation(other, given)
    if plain is None or with_one is None or with_other is None:
        return plain
    return correlation_given(plain, with_one, with_other)


def difference_at_equal_length(
    differences: Sequence[float], ours: Sequence[int], theirs: Sequence[int], seed: int, n: int = 2000
) -> Interval | None:
    """Returns the difference between two systems that is left where their responses are equally long.

    It is the intercept a of the least-squares fit ``d = a + b tanh((l - l') / s)`` over prompts, where d is the
    difference of scores, l - l' that of lengths, and s the standard deviation of l - l'. The 95 % interval is a
    percentile bootstrap over prompts. Where few prompts have responses of like length, a is an extrapolation.

    Args:
        differences: (n,) d, score of ours minus score of theirs on each prompt.
        ours: (n,) l, tokens.
        theirs: (n,) l', tokens.
        seed: of the bootstrap.
        n: number of resamples.

    Returns:
        None if all l - l' are the same but not 0: length and system cannot be told apart.

    Source: Dubois et al. 2024 (arXiv 2404.04475), whose length-controlled win rate has the same term of length in a
    logistic regression of preferences, beside one for how difficult the instruction is.
    """
    d = np.asarray(differences, dtype=np.float64)
    longer = np.subtract(np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64))
    if np.ptp(longer) == 0:
        return bootstrap(d.tolist(), seed, n) if longer[0] == 0 else None
    term = np.tanh(longer / longer.std())
    drawn = np.concatenate([_intercepts(d[rows], term[rows]) for rows in resamples(d.size, seed, n)])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(_intercepts(d[None], term[None])[0]), float(low), float(high))


def _intercepts(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Intercepts of the lines through each row of points, (rows, n); flat lines where all x are equal."""
    x_mean, y_mean = x.mean(axis=1), y.mean(axis=1)
    centred = x - x_mean[:, None]
    spread = (centred**2).sum(axis=1)
    slope = np.divide((centred * y).sum(axis=1), spread, out=np.zeros_like(spread), where=spread > 1e-12)
    return np.asarray(y_mean - slope * x_mean)
