"""Measures on numbers small enough to check by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lit_instruct.evaluation import measures


def test_bootstrap_of_equal_values_has_no_width() -> None:
    assert measures.bootstrap([2.5, 2.5, 2.5], seed=0) == (2.5, 2.5, 2.5)


def test_bootstrap_interval_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    interval = measures.bootstrap(values.tolist(), seed=1)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.ci_low == pytest.approx(values.mean() - half, abs=0.03)
    assert interval.ci_high == pytest.approx(values.mean() + half, abs=0.03)


def test_bootstrap_depends_on_the_seed_alone() -> None:
    values = [0.0, 1.1, 5.3, 2.7, 9.2, 4.9, 7.1]
    assert measures.bootstrap(values, seed=3) == measures.bootstrap(values, seed=3)
    assert measures.bootstrap(values, seed=3) != measures.bootstrap(values, seed=4)


def test_bootstrap_in_blocks_equals_bootstrap_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measures.bootstrap([0.0, 1.0, 5.0, 2.0], seed=3, n=50)
    monkeypatch.setattr(measures, "BLOCK", 28)
    assert measures.bootstrap([0.0, 1.0, 5.0, 2.0], seed=3, n=50) == whole


def test_bootstrap_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        measures.bootstrap([], seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        measures.bootstrap([1.0], seed=0, n=0)


def test_paired_difference_cancels_what_the_pairs_share() -> None:
    theirs = [0.0, 10.0, -20.0, 30.0]
    assert measures.paired_difference([x + 0.5 for x in theirs], theirs, seed=0) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="equal lengths"):
        measures.paired_difference([1.0], [1.0, 2.0], seed=0)


def test_wins_count_ties_half() -> None:
    assert measures.wins([1.0, 2.0, 3.0], [0.0, 2.0, 4.0]) == [1.0, 0.5, 0.0]
    with pytest.raises(ValueError, match="equal lengths"):
        measures.wins([1.0], [])


def test_distinct_n() -> None:
    # a b | b a | a b: 3 bigrams, 2 distinct; none across two responses.
    assert measures.distinct_n(["a b", "b a", "A, b!"]) == pytest.approx(2 / 3)
    assert measures.distinct_n(["a b a", "b"], n=1) == 0.5
    assert measures.distinct_n(["", "word"]) == 0.0
    with pytest.raises(ValueError, match="n >= 1"):
        measures.distinct_n(["a"], n=0)


def test_mean_distinct_n_looks_within_each_response() -> None:
    assert measures.mean_distinct_n(["a b", "a b"]) == 1.0
    # a b, b a, a b: 2 of 3; the one-word response is left out.
    assert measures.mean_distinct_n(["a b a b", "c d", "e"]) == pytest.approx((2 / 3 + 1) / 2)
    assert measures.mean_distinct_n([""]) == 0.0


def test_distinct_2_interval_holds_the_value() -> None:
    random = np.random.default_rng(0)
    responses = [" ".join(f"w{i}" for i in random.integers(0, 30, size=20)) for _ in range(60)]
    interval = measures.distinct_2_interval(responses, seed=0)
    assert interval.mean == measures.distinct_n(responses)
    assert interval.ci_low < interval.mean < interval.ci_high
    assert interval.ci_high - interval.ci_low < 0.1
    assert interval == measures.distinct_2_interval(responses, seed=0)


@pytest.mark.parametrize("responses", [["a b c"], ["", ""], []])
def test_distinct_2_interval_without_spread(responses: list[str]) -> None:
    value = measures.distinct_n(responses)
    assert measures.distinct_2_interval(responses, seed=0) == (value, value, value)


def test_best_of_n_kl() -> None:
    assert measures.best_of_n_kl(1) == 0.0
    assert measures.best_of_n_kl(8) == pytest.approx(1.204441541679836)
    with pytest.raises(ValueError, match="n >= 1"):
        measures.best_of_n_kl(0)


def test_the_sign_flip_test() -> None:
    """Five differences of one sign: 2 of 32 ways to flip them are as far from 0, so p is near 1/16."""
    assert measures.sign_flip_p([1.0, 2.0, 1.5, 1.0, 3.0], [0.0] * 5, seed=0) == pytest.approx(2 / 32, abs=0.02)
    assert measures.sign_flip_p([1.0, -1.0], [0.0, 0.0], seed=0) == 1.0
    assert measures.sign_flip_p([0.5] * 4, [0.5] * 4, seed=0) == 1.0
    assert measures.sign_flip_p([1.0] * 40, [0.0] * 40, seed=0) == 1 / 2001
    draw = np.random.default_rng(0)
    alike = [measures.sign_flip_p(draw.normal(size=40).tolist(), [0.0] * 40, seed=1, n=200) for _ in range(200)]
    assert 0.01 < np.mean(np.array(alike) < 0.05) < 0.1  # of systems that are alike, one in twenty seems to differ
    for wrong in ([], [1.0, 2.0]):
        with pytest.raises(ValueError, match="equal lengths above 0"):
            measures.sign_flip_p(wrong, [], seed=0)


def test_the_commonest_opening() -> None:
    texts = ["That\u2019s a great idea.", "that\u2019s a GREAT day", "No.", "I am here", "That\u2019s a good one"]
    assert measures.commonest_opening(texts) == ("That\u2019s a great", 2)
    assert measures.commonest_opening(["**Yes**, I do - really"]) == ("**Yes**, I do", 1)
    assert measures.commonest_opening(["a", "b c", ""]) is None
    assert measures.commonest_opening(["x y", "x z"], length=1) == ("x", 2)
