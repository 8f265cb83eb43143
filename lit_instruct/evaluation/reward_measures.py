"""Measures of a reward model as pure functions of rewards and ranks.

A *row* is one ranked comparison: K responses to a prompt. A *pair* is two of them with different ranks; ties form no
pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef
from torchmetrics.functional.classification import binary_calibration_error

from lit_instruct.evaluation.length import alike, correlation, partial_correlation
from lit_instruct.evaluation.measures import resamples

BINS = 10
"""Bins of the confidence between 1/2 and 1."""
_ABSENT = np.iinfo(np.int64).max
"""Rank of padding."""


class Pairs(NamedTuple):
    """All n pairs of the rows, the better response (w) against the worse one (l)."""

    row: np.ndarray
    """(n,) int, index of the row, non-decreasing."""
    winner: np.ndarray
    """(n,) int, index of w among the row's responses."""
    loser: np.ndarray
    """(n,) int, index of l among the row's responses."""
    margin: np.ndarray
    """(n,) float, r_w - r_l: above 0 if the model agrees with the labeler."""
    distance: np.ndarray
    """(n,) int, how far apart the two are among the row's distinct ranks: 1 for neighbours."""


class Accuracy(NamedTuple):
    """Share of pairs in the labeler's order."""

    value: float
    ci_low: float
    ci_high: float
    pairs: int
    rows: int


class Bin(NamedTuple):
    """Pairs whose confidence lies in [low, high)."""

    low: float
    high: float
    pairs: int
    confidence: float
    """Mean of sigmoid(|r_w - r_l|), the model's confidence in its order."""
    accuracy: float
    """Share of pairs in the labeler's order; equal rewards count half."""


class LengthRelation(NamedTuple):
    """How the reward relates to the length of the response; None if one of them is constant."""

    pearson: float | None
    """Linear correlation over all responses."""
    spearman: float | None
    """Correlation of their ranks."""
    pearson_within_rows: float | None
    """Linear correlation of both after subtracting each row's mean."""
    longer_preferred_by_labeler: float | None
    """Share of pairs of unequal length in which the labeler ranks the longer response higher."""
    longer_preferred_by_model: float | None
    """The same for the model; equal rewards count half."""
    quality_within_rows: float | None
    """Linear correlation of the reward with the labeler's order (minus the rank among the row's distinct ranks)."""
    quality_within_rows_given_length: float | None
    """What is left of it when length is given (`length.partial_correlation`)."""


def ranked_pairs(rewards: Sequence[Sequence[float]], ranks: Sequence[Sequence[int]]) -> Pairs:
    """Returns every pair of differently ranked responses to the same prompt.

    Args:
        rewards: K numbers per row, higher is better; rows may differ in K.
        ranks: K integers per row, 1 is the best, equal ranks are ties.

    Raises:
        ValueError: a row's numbers of rewards and ranks differ.
    """
    if [len(row) for row in rewards] != [len(row) for row in ranks]:
        raise ValueError("every response needs one reward and one rank")
    reward, rank = _padded(rewards, 0.0), _padded(ranks, _ABSENT)
    better = (rank[:, :, None] < rank[:, None, :]) & (rank[:, None, :] != _ABSENT)
    row, winner, loser = better.nonzero()
    level = _levels(rank)
    margin = reward[row, winner] - reward[row, loser]
    return Pairs(row, winner, loser, margin, level[row, loser] - level[row, winner])


def pair_accuracy(pairs: Pairs, chosen: np.ndarray, seed: int, n: int = 1000) -> Accuracy | None:
    """Returns the share of pairs in the labeler's order; equal rewards count as wrong. None if no pair is chosen.

    The 95 % interval is a percentile bootstrap over rows, because pairs of a row are not independent; that of a single
    row is 0 to 1.

    Args:
        pairs: of `ranked_pairs`.
        chosen: (number of pairs,) bool, which pairs to count.
        seed: of the bootstrap.
        n: number of resamples.
    """
    if not chosen.any():
        return None
    _, row = np.unique(pairs.row[chosen], return_inverse=True)
    counted = np.bincount(row).astype(np.float64)
    correct = np.bincount(row, weights=pairs.margin[chosen] > 0)
    if len(counted) == 1:  # all resamples would be equal, which says nothing
        return Accuracy(float(correct[0] / counted[0]), 0.0, 1.0, int(counted[0]), 1)
    shares = [correct[rows].sum(axis=1) / counted[rows].sum(axis=1) for rows in resamples(len(counted), seed, n)]
    low, high = np.quantile(np.concatenate(shares), [0.025, 0.975])
    return Accuracy(float(correct.sum() / counted.sum()), float(low), float(high), int(counted.sum()), len(counted))


def calibration_error(margins: np.ndarray) -> float:
    """Expected calibration error of sigmoid(r_w - r_l) as the probability that the labeler prefers w.

    ECE = sum over bins of share of pairs x |accuracy - confidence|. Every pair counts in both directions (w over l
    happened, l over w did not): in one direction alone the outcome would always be 1.

    Args:
        margins: (n,) r_w - r_l, n at least 1.
    """
    probability = torch.from_numpy(margins).double().sigmoid()
    happened = torch.ones(len(margins), dtype=torch.long)
    both = torch.cat([probability, 1 - probability]), torch.cat([happened, 1 - happened])
    return float(binary_calibration_error(*both, n_bins=2 * BINS, norm="l1"))


def reliability(margins: np.ndarray) -> list[Bin]:
    """Returns the non-empty bins of the reliability plot for margins (n,) r_w - r_l, as in `calibration_error`."""
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    correct = np.where(margins == 0, 0.5, margins > 0)
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    bins = []
    for i in np.unique(place).tolist():
        inside = place == i
        low, high = 0.5 + i / (2 * BINS), 0.5 + (i + 1) / (2 * BINS)
        bins.append(Bin(low, high, int(inside.sum()), float(confidence[inside].mean()), float(correct[inside].mean())))
    return bins


def of_like_length(lengths: Sequence[Sequence[int]], pairs: Pairs) -> np.ndarray:
    """Returns which pairs have responses of like length (`length.alike`), (n,) bool.

    Args:
        lengths: tokens of each row's responses.
        pairs: of the same rows.
    """
    tokens = _padded(lengths, 0)
    return alike(tokens[pairs.row, pairs.winner], tokens[pairs.row, pairs.loser])


def length_relation(
    rewards: Sequence[Sequence[float]],
    lengths: Sequence[Sequence[int]],
    ranks: Sequence[Sequence[int]],
    pairs: Pairs,
) -> LengthRelation:
    """Returns how strongly the reward depends on length, and on the labeler's order whatever the length.

    Args:
        rewards: K numbers per row.
        lengths: tokens of the same responses.
        ranks: of the same responses.
        pairs: of these rewards and ranks.
    """
    length = _padded(lengths, 0)
    longer = np.sign(length[pairs.row, pairs.winner] - length[pairs.row, pairs.loser])
    unequal = longer != 0
    by_model = (1 + longer * np.sign(pairs.margin)) / 2
    reward, tokens = _flat(rewards), _flat(lengths)
    quality = [-_levels(np.asarray([row]))[0] for row in ranks]
    reward_within, tokens_within, quality_within = (
        _flat([np.subtract(row, np.mean(row)) for row in rows]) for rows in (rewards, lengths, quality)
    )
    return LengthRelation(
        _correlation(reward, tokens, pearson_corrcoef),
        _correlation(reward, tokens, spearman_corrcoef),
        _correlation(reward_within, tokens_within, pearson_corrcoef),
        float((longer[unequal] > 0).mean()) if unequal.any() else None,
        float(by_model[unequal].mean()) if unequal.any() else None,
        correlation(quality_within, reward_within),
        partial_correlation(quality_within, reward_within, tokens_within),
    )


def _flat(rows: Sequence[Any]) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])


def _correlation(one: np.ndarray, other: np.ndarray, correlate: Callable[[Tensor, Tensor], Tensor]) -> float | None:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(correlate(torch.from_numpy(one), torch.from_numpy(other)))


def _padded(rows: Sequence[Sequence[float]], absent: float) -> np.ndarray:
    """Rows of unequal length as one matrix (rows, most responses)."""
    matrix = np.full((len(rows), max(map(len, rows), default=0)), absent, dtype=np.asarray(absent).dtype)
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    return matrix


def _levels(rank: np.ndarray) -> np.ndarray:
    """Ranks of each row counted without gaps from 0: [1, 3, 3, 7] -> [0, 1, 1, 2]."""
    order = rank.argsort(axis=1, kind="stable")
    steps = np.diff(np.take_along_axis(rank, order, axis=1), axis=1) > 0
    levels = np.zeros_like(rank)
    np.put_along_axis(levels, order[:, 1:], steps.cumsum(axis=1), axis=1)
    return levels
