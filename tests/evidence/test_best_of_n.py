"""Best-of-n from a pool equals the mean over all subsets of the pool."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.best_of_n import best_of_n


def by_all_subsets(proxy: np.ndarray, values: np.ndarray, n: int) -> list[float]:
    """The definition: every n samples of a prompt, the first of those with the highest proxy."""
    found = []
    for scores, golds in zip(proxy, values, strict=True):
        subsets = list(combinations(range(len(scores)), n))
        found.append(sum(golds[max(subset, key=lambda i: scores[i])] for subset in subsets) / len(subsets))
    return found


def test_one_prompt_by_hand() -> None:
    proxy, gold = np.array([[0.3, 0.9, 0.1]]), np.array([[6.0, 3.0, 9.0]])
    assert best_of_n(proxy, gold, 1).tolist() == pytest.approx([6.0])  # the mean
    assert best_of_n(proxy, gold, 2).tolist() == pytest.approx([(3 + 6 + 3) / 3])  # {0,1} {0,2} {1,2}
    assert best_of_n(proxy, gold, 3).tolist() == [3.0]
    assert best_of_n(proxy, proxy, 2).tolist() == pytest.approx([(0.9 + 0.3 + 0.9) / 3])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**16), st.integers(1, 4))
def test_equals_the_mean_over_all_subsets_with_ties_too(samples: int, n: int, seed: int, levels: int) -> None:
    draw = np.random.default_rng(seed)
    proxy = draw.integers(0, levels, (3, samples)).astype(float)
    values, n = draw.normal(size=(3, samples)), min(n, samples)
    assert best_of_n(proxy, values, n).tolist() == pytest.approx(by_all_subsets(proxy, values, n))


def test_the_mean_does_not_depend_on_the_pool_size() -> None:
    draw = np.random.default_rng(0)
    large = draw.normal(size=(3000, 64))
    small = large[:, :16]
    whole, part = (best_of_n(pool, pool, 8).mean() for pool in (large, small))
    assert whole == pytest.approx(1.4236, abs=0.03)  # expected largest of 8 normal numbers
    assert part == pytest.approx(whole, abs=0.03)


@pytest.mark.parametrize("n", [0, 4])
def test_refuses_more_samples_than_there_are(n: int) -> None:
    with pytest.raises(ValueError, match=r"n in 1\.\.3"):
        best_of_n(np.zeros((2, 3)), np.zeros((2, 3)), n)


def test_refuses_tables_of_different_shapes() -> None:
    with pytest.raises(ValueError, match="two tables"):
        best_of_n(np.zeros((2, 3)), np.zeros((3, 2)), 1)
