"""Measures of a reward model on numbers small enough to check by hand, and against loops."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from lit_instruct.evaluation import reward_measures as measures
from lit_instruct.evaluation.reward_measures import ranked_pairs

REWARDS = [[0.5, 2.0, -1.0], [1.0, 1.0]]
RANKS = [[2, 1, 2], [1, 5]]


def random_rows(count: int, seed: int = 0) -> tuple[list[list[float]], list[list[int]], list[list[int]]]:
    """Rewards, ranks with ties and gaps, and lengths of rows with K from 2 to 6."""
    draw = random.Random(seed)
    sizes = [draw.randint(2, 6) for _ in range(count)]
    rewards = [[draw.gauss(0, 1) for _ in range(k)] for k in sizes]
    ranks = [[draw.choice([1, 2, 3, 5, 9]) for _ in range(k)] for k in sizes]
    return rewards, ranks, [[draw.randint(1, 9) for _ in range(k)] for k in sizes]


def loop(rewards: list[list[float]], ranks: list[list[int]]) -> list[tuple[int, int, int, float, int]]:
    """Pairs as the definition says."""
    found = []
    for row, (values, places) in enumerate(zip(rewards, ranks, strict=True)):
        distinct = sorted(set(places))
        for w, better in enumerate(places):
            for lo, worse in enumerate(places):
                if better < worse:
                    distance = distinct.index(worse) - distinct.index(better)
                    found.append((row, w, lo, values[w] - values[lo], distance))
    return found


def test_pairs_by_hand() -> None:
    pairs = ranked_pairs(REWARDS, RANKS)
    assert pairs.row.tolist() == [0, 0, 1]
    assert pairs.winner.tolist() == [1, 1, 0]
    assert pairs.loser.tolist() == [0, 2, 1]
    assert pairs.margin.tolist() == [1.5, 3.0, 0.0]
    assert pairs.distance.tolist() == [1, 1, 1]  # ranks 1 and 5 are neighbours where nothing lies between them
    assert ranked_pairs([[3.0, 2.0, 1.0, 0.0]], [[1, 7, 7, 9]]).distance.tolist() == [1, 1, 2, 1, 1]


def test_pairs_equal_the_loop() -> None:
    rewards, ranks, _ = random_rows(60)
    pairs = ranked_pairs(rewards, ranks)
    assert list(zip(*(part.tolist() for part in pairs), strict=True)) == loop(rewards, ranks)


def test_no_rows_no_pairs() -> None:
    assert len(ranked_pairs([], []).row) == 0
    assert len(ranked_pairs([[1.0, 2.0]], [[1, 1]]).row) == 0
    with pytest.raises(ValueError, match="one reward and one rank"):
        ranked_pairs([[1.0]], [[1, 2]])


def test_accuracy_by_hand() -> None:
    pairs = ranked_pairs(REWARDS, RANKS)
    everything = np.ones(3, dtype=bool)
    accuracy = measures.pair_accuracy(pairs, everything, seed=0)
    assert accuracy is not None
    assert accuracy.value == pytest.approx(2 / 3)  # equal rewards are in no order
    assert (accuracy.pairs, accuracy.rows) == (3, 2)
    assert (accuracy.ci_low, accuracy.ci_high) == (0.0, 1.0)  # two rows: one all right, one all wrong
    assert measures.pair_accuracy(pairs, pairs.row == 0, seed=0) == (1.0, 0.0, 1.0, 2, 1)
    assert measures.pair_accuracy(pairs, pairs.row == 5, seed=0) is None


def test_accuracy_draws_the_pairs_of_a_row_together() -> None:
    """Fifteen pairs that stand and fall together say as much as one: the interval is that of the rows."""
    draw = random.Random(0)
    right = [draw.random() < 0.7 for _ in range(300)]
    alone = ranked_pairs([[1.0, 0.0] if good else [0.0, 1.0] for good in right], [[1, 2]] * 300)
    six = [float(-i) for i in range(6)]
    together = ranked_pairs([six if good else six[::-1] for good in right], [[1, 2, 3, 4, 5, 6]] * 300)
    one, many = (measures.pair_accuracy(p, np.ones(len(p.row), dtype=bool), seed=1) for p in (alone, together))
    assert one is not None
    assert many is not None
    assert many.pairs == 15 * one.pairs
    assert many[:3] == pytest.approx(one[:3])
    half = 1.96 * math.sqrt(one.value * (1 - one.value) / 300)
    assert one.ci_high - one.value == pytest.approx(half, abs=0.012)


def test_calibration_by_hand() -> None:
    # Confidence 3/4 in five pairs, of which the labeler agrees with three: 3/5 in place of 3/4.
    margin = math.log(3)
    margins = np.array([margin] * 3 + [-margin] * 2)
    assert measures.calibration_error(margins) == pytest.approx(0.15)
    (only,) = measures.reliability(margins)
    assert only == pytest.approx((0.75, 0.8, 5, 0.75, 0.6))


def test_equal_rewards_are_perfectly_unsure() -> None:
    margins = np.zeros(4)
    assert measures.calibration_error(margins) == 0.0
    assert measures.reliability(margins) == [(0.5, 0.55, 4, 0.5, 0.5)]


def test_the_bins_add_up_to_the_calibration_error() -> None:
    margins = np.random.default_rng(0).normal(0.7, 2.0, size=500)
    bins = measures.reliability(margins)
    assert len(bins) == measures.BINS
    assert sum(one.pairs for one in bins) == 500
    gaps = sum(one.pairs / 500 * abs(one.accuracy - one.confidence) for one in bins)
    assert measures.calibration_error(margins) == pytest.approx(gaps, abs=1e-9)


def test_a_model_that_knows_its_odds_has_no_calibration_error() -> None:
    draw = np.random.default_rng(0)
    size = draw.uniform(0, 4, size=200_000)
    margins = np.where(draw.random(200_000) < 1 / (1 + np.exp(-size)), size, -size)
    assert measures.calibration_error(margins) < 0.005
    assert measures.calibration_error(4 * margins) > 0.05  # the same order, too sure of it


def test_extreme_margins_stay_in_the_last_bin() -> None:
    (last,) = measures.reliability(np.array([1e4, -1e4]))
    assert last == (0.95, 1.0, 2, 1.0, 0.5)
    assert measures.calibration_error(np.array([1e4, -1e4])) == pytest.approx(0.5)


def test_length_by_hand() -> None:
    rewards, lengths, ranks = [[1.0, 2.0, 3.0], [11.0, 10.0]], [[2, 4, 6], [5, 5]], [[3, 2, 1], [1, 2]]
    relation = measures.length_relation(rewards, lengths, ranks, ranked_pairs(rewards, ranks))
    flat = np.corrcoef([1.0, 2, 3, 11, 10], [2.0, 4, 6, 5, 5])[0, 1]
    assert relation.pearson == pytest.approx(flat)
    # Within rows: rewards -1 0 1 1/2 -1/2, lengths -2 0 2 0 0.
    assert relation.pearson_within_rows == pytest.approx(4 / math.sqrt(2.5 * 8))
    # Ranks of the rewards 1 2 3 5 4, of the lengths 1 2 5 3.5 3.5.
    assert relation.spearman == pytest.approx(np.corrcoef([1.0, 2, 3, 5, 4], [1, 2, 5, 3.5, 3.5])[0, 1])
    assert relation.longer_preferred_by_labeler == 1.0  # the pair of equal length says nothing
    assert relation.longer_preferred_by_model == 1.0
    # Quality within rows: -1 0 1 1/2 -1/2, as the rewards; the same once the length is given.
    assert relation.quality_within_rows == pytest.approx(1.0)
    assert relation.quality_within_rows_given_length == pytest.approx(1.0)


def test_quality_that_is_length_alone_vanishes_at_equal_length() -> None:
    """The rewards follow the lengths, and so does the labeler but for one noise that is not the model's."""
    u, v, w = [1.0, 1, -1, -1], [1.0, -1, 1, -1], [1.0, -1, -1, 1]
    lengths = [[int(10 + x) for x in u]]
    rewards = [[x + 0.5 * y for x, y in zip(u, v, strict=True)]]
    order = [2 * x + 1.5 * y for x, y in zip(u, w, strict=True)]  # 3.5 0.5 -3.5 -0.5
    ranks = [[1, 2, 4, 3]]
    assert sorted(range(4), key=lambda i: -order[i]) == [0, 1, 3, 2]
    relation = measures.length_relation(rewards, lengths, ranks, ranked_pairs(rewards, ranks))
    # Quality 1.5 0.5 -1.5 -0.5 = u + w / 2: its product with the rewards is that of u alone.
    assert relation.quality_within_rows == pytest.approx(1 / 1.25)
    assert relation.quality_within_rows_given_length == pytest.approx(0.0, abs=1e-12)


def test_pairs_of_like_length() -> None:
    rewards, ranks, lengths = [[3.0, 1.0, 2.0], [1.0, 2.0]], [[1, 3, 2], [1, 2]], [[100, 125, 126], [8, 10]]
    pairs = ranked_pairs(rewards, ranks)
    chosen = measures.of_like_length(lengths, pairs)
    of = [(int(row), int(w), int(lo)) for row, w, lo in zip(pairs.row, pairs.winner, pairs.loser, strict=True)]
    assert [pair for pair, like in zip(of, chosen, strict=True) if like] == [(0, 0, 1), (0, 2, 1), (1, 0, 1)]
    found = measures.pair_accuracy(pairs, chosen, 0)
    assert found is not None
    assert found.value == pytest.approx(2 / 3)


def test_length_preferences_equal_the_loop() -> None:
    rewards, ranks, lengths = random_rows(60, seed=3)
    labeler, model = [], []
    for row, w, lo, margin, _ in loop(rewards, ranks):
        difference = lengths[row][w] - lengths[row][lo]
        if difference:
            labeler.append(difference > 0)
            model.append((difference > 0) == (margin > 0))
    relation = measures.length_relation(rewards, lengths, ranks, ranked_pairs(rewards, ranks))
    assert relation.longer_preferred_by_labeler == pytest.approx(np.mean(labeler))
    assert relation.longer_preferred_by_model == pytest.approx(np.mean(model))


def test_without_variation_there_is_no_correlation() -> None:
    rewards = [[1.0, 1.0], [1.0, 1.0]]
    ranks = [[1, 2], [1, 2]]
    relation = measures.length_relation(rewards, [[3, 3], [3, 3]], ranks, ranked_pairs(rewards, ranks))
    assert relation == (None, None, None, None, None, None, None)
    unsure = measures.length_relation(rewards, [[3, 4], [5, 4]], ranks, ranked_pairs(rewards, ranks))
    assert unsure == (None, None, None, 0.5, 0.5, None, None)
