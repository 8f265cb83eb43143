"""How far labelers agree: with each other, with themselves, and a reward model with each of them (section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from lit_instruct.evaluation.measures import resamples
from lit_instruct.judging.agreement import Agreed, agreement, compared, predicted
from lit_instruct.labeling.rankings import Ranked

RESAMPLES = 1000
SIGNS = (-1, 0, 1)
"""A labeler ranks the first of two responses higher, both equal, or the second higher."""
Figure = dict[str, Any]


def figures(
    found: Sequence[Ranked], apart: set[str], rewards: Mapping[int, Sequence[float]] | None, seed: int
) -> Figure:
    """Returns all figures of a store, as JSON holds them.

    Agreement is the share of pairs of responses to a prompt that two labelers order alike; one that only one of them
    ties counts 1/2, one that both tie is left out. Intervals are 95 % percentile bootstraps over tasks.

    Args:
        found: rankings in the order in which they were saved.
        apart: labelers that are held out.
        rewards: of each task's responses by a reward model; None for none.
        seed: of the resampling.
    """
    first, again = _first_and_again(found)
    names = sorted({one.labeler for one in found})
    training = [name for name in names if name not in apart]
    result: Figure = {
        "rankings": len(found),
        "tasks": len({one.task for one in found}),
        "labelers": {name: _of_labeler(name, found, apart, first, again, seed) for name in names},
        "agreement": {
            "all": _between(first, lambda a, b: True, seed),
            "training": _between(first, lambda a, b: not {a, b} & apart, seed),
            "held_out": _between(first, lambda a, b: {a, b} <= apart, seed),
            "training_with_held_out": _between(first, lambda a, b: len({a, b} & apart) == 1, seed),
        },
        "pairs_of_labelers": [
            {"labelers": [one, other], **figure}
            for one, other in combinations(names, 2)
            if (figure := _between(first, partial(_are, {one, other}), seed)) is not None
        ],
        "self_agreement": interval(_self_agreement(names, first, again), seed),
        "alpha": alpha(first, seed),
    }
    if rewards is not None:
        result["reward_model"] = {
            "training": _against(first, training, rewards, seed),
            "held_out": _against(first, sorted(apart), rewards, seed),
            "labelers": {name: _against(first, [name], rewards, seed) for name in names},
        }
    return result


Rankings = dict[int, dict[str, Ranked]]
"""Task -> labeler -> ranking."""


def _first_and_again(found: Sequence[Ranked]) -> tuple[Rankings, Rankings]:
    first: Rankings = {}
    again: Rankings = {}
    for one in found:
        known = first.setdefault(one.task, {})
        (again.setdefault(one.task, {}) if one.labeler in known else known)[one.labeler] = one
    return first, again


def _between(rankings: Rankings, wanted: Callable[[str, str], bool], seed: int) -> Figure | None:
    """Agreement of the pairs of labelers that are wanted, by task."""
    by_task = []
    for of_task in rankings.values():
        pairs = [(of_task[a].ranks, of_task[b].ranks) for a, b in combinations(sorted(of_task), 2) if wanted(a, b)]
        if pairs:
            by_task.append(agreement(pairs))
    return interval(by_task, seed)


def _are(pair: set[str], one: str, other: str) -> bool:
    return {one, other} == pair


def _self_agreement(names: Iterable[str], first: Rankings, again: Rankings) -> list[Agreed]:
    return [
        compared(first[task][name].ranks, of_task[name].ranks)
        for task, of_task in again.items()
        for name in names
        if name in of_task
    ]


def _of_labeler(
    name: str, found: Sequence[Ranked], apart: set[str], first: Rankings, again: Rankings, seed: int
) -> Figure:
    own = [one for one in found if one.labeler == name]
    timed = [one.seconds for one in own if one.seconds is not None]
    return {
        "rankings": len(own),
        "held_out": name in apart,
        "median_seconds": round(median(timed), 1) if timed else None,
        "agreement": _between(first, lambda a, b: name in (a, b), seed),
        "self_agreement": interval(_self_agreement([name], first, again), seed),
    }


def _against(
    rankings: Rankings, names: Sequence[str], rewards: Mapping[int, Sequence[float]], seed: int
) -> Figure | None:
    by_task = [
        predicted(rewards[task], of_task[name].ranks)
        for task, of_task in rankings.items()
        for name in names
        if name in of_task
    ]
    return interval(by_task, seed)


def interval(by_task: Sequence[Agreed], seed: int) -> Figure | None:
    """Returns the share over all pairs with its 95 % percentile bootstrap over tasks; None without a pair."""
    points = np.array([one.points for one in by_task])
    pairs = np.array([one.pairs for one in by_task])
    if not pairs.sum():
        return None
    drawn: list[float] = []
    for rows in resamples(len(pairs), seed, RESAMPLES):
        counts = pairs[rows].sum(axis=1)
        drawn += (points[rows].sum(axis=1)[counts > 0] / counts[counts > 0]).tolist()
    low, high = np.quantile(drawn, [0.025, 0.975])
    share = float(points.sum() / pairs.sum())
    return {
        "share": round(share, 4),
        "ci_low": round(float(low), 4),
        "ci_high": round(float(high), 4),
        "pairs": int(pairs.sum()),
        "tasks": len(by_task),
    }


def alpha(rankings: Rankings, seed: int, n: int = 200) -> Figure | None:
    """Returns Krippendorff's alpha (ordinal) of the order of two responses, with its interval over tasks.

    ``alpha = 1 - observed / expected disagreement``: 1 is full agreement, 0 chance. A unit is a pair of responses, its
    values are -1, 0 and 1 (`SIGNS`), one from each labeler; every pair counts in both directions, so that the order in
    which responses are stored does not matter. None if no task has two labelers, or all tie everything.

    Args:
        rankings: task -> labeler -> ranking.
        seed: of the resampling.
        n: number of resamples.
    """
    units = [counts for of_task in rankings.values() if len(of_task) > 1 and (counts := _counts(of_task)).size]
    value = _alpha(units)
    if value is None:
        return None
    drawn = [_alpha([units[row] for row in rows]) for block in resamples(len(units), seed, n) for rows in block]
    low, high = np.quantile([one for one in drawn if one is not None], [0.025, 0.975])
    return {
        "value": round(value, 4),
        "ci_low": round(float(low), 4),
        "ci_high": round(float(high), 4),
        "tasks": len(units),
    }


def _counts(of_task: Mapping[str, Ranked]) -> np.ndarray:
    """(units, 3): how many labelers gave each of SIGNS to each ordered pair of a task's responses."""
    ranks = np.array([one.ranks for one in of_task.values()])
    signs = np.sign(ranks[:, :, None] - ranks[:, None, :])
    apart = ~np.eye(ranks.shape[1], dtype=bool)
    return np.stack([(signs == sign).sum(axis=0)[apart] for sign in SIGNS], axis=1)


def _alpha(units: Sequence[np.ndarray]) -> float | None:
    import krippendorff

    if not units:
        return None
    counts = np.concatenate(units)
    if (counts.sum(axis=0) > 0).sum() < 2:
        return None
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="ordinal", value_domain=SIGNS))
