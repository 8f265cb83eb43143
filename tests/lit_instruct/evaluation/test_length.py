"""Measures that take length out, on numbers small enough to check by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lit_instruct.evaluation.length import alike, correlation, difference_at_equal_length, partial_correlation

U, V, W = np.array([1.0, 1, -1, -1]), np.array([1.0, -1, 1, -1]), np.array([1.0, -1, -1, 1])
"""Three directions at right angles, each of mean 0."""


def test_like_length_is_a_quarter_more_at_most() -> None:
    assert alike([8, 8, 10, 11, 0], [8, 10, 8, 8, 0]).tolist() == [True, True, True, False, True]


def test_correlation_by_hand() -> None:
    assert correlation([1.0, 2, 3], [2.0, 4, 9]) == pytest.approx(7 / math.sqrt(2 * 26))
    assert correlation([1.0, 2, 3], [5.0, 5, 5]) is None
    assert correlation([], []) is None


def test_partial_correlation_by_hand() -> None:
    # Without U, V is left of the first and V + W of the second.
    assert correlation(U + V, U + V + W) == pytest.approx(2 / math.sqrt(6))
    assert partial_correlation(U + V, U + V + W, U) == pytest.approx(1 / math.sqrt(2))
    # What looks like agreement is the length alone.
    assert correlation(U + V, U + W) == pytest.approx(0.5)
    assert partial_correlation(U + V, U + W, U) == pytest.approx(0.0)


def test_partial_correlation_equals_that_of_the_residuals() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=50)
    x, y = z + rng.normal(size=50), 2 * z + rng.normal(size=50)
    left = [values - np.polyval(np.polyfit(z, values, 1), z) for values in (x, y)]
    assert partial_correlation(x, y, z) == pytest.approx(np.corrcoef(*left)[0, 1])


def test_partial_correlation_where_it_is_not_defined() -> None:
    assert partial_correlation(U, U + V, 3 * U + 1) is None  # the first is length and nothing else
    assert partial_correlation(U, U + V, [7.0] * 4) == correlation(U, U + V)  # all lengths are equal
    assert partial_correlation([1.0] * 4, U, V) is None


def test_the_difference_at_equal_length_by_hand() -> None:
    # Lengths differ by -2, 0, 2, 0, whose standard deviation is sqrt(2).
    term = math.tanh(math.sqrt(2))
    found = difference_at_equal_length([3 - 4 * term, 3, 3 + 4 * term, 3], [8, 9, 12, 5], [10, 9, 10, 5], seed=0)
    assert found == pytest.approx((3.0, 3.0, 3.0))


def test_a_gain_that_is_length_alone_vanishes() -> None:
    longer = [0, 0, 4, 6, 8, 2]
    deviation = np.std(longer)
    gains = [2 * math.tanh(more / deviation) for more in longer]
    assert np.mean(gains) > 1
    found = difference_at_equal_length(gains, [10 + more for more in longer], [10] * 6, seed=1)
    assert found == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)


def test_the_interval_covers_the_noise() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = rng.integers(5, 30, 200), rng.integers(5, 30, 200)
    gains = 0.3 + 0.5 * np.tanh((ours - theirs) / np.std(ours - theirs)) + rng.normal(0, 0.5, 200)
    found = difference_at_equal_length(gains.tolist(), ours.tolist(), theirs.tolist(), seed=0)
    assert found is not None
    assert found.ci_low < 0.3 < found.ci_high
    assert found.ci_high - found.ci_low == pytest.approx(4 * 0.5 / math.sqrt(200), rel=0.2)


def test_lengths_that_all_differ_by_the_same() -> None:
    assert difference_at_equal_length([1.0, 2.0], [5, 6], [3, 4], seed=0) is None
    found = difference_at_equal_length([1.0, 2.0], [5, 6], [5, 6], seed=0)
    assert found == (1.5, 1.0, 2.0)
