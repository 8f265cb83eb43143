"""How often two rankings of the same responses order two of them alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple


class Agreed(NamedTuple):
    """Pairs of responses on which two rankings are compared."""

    points: float
    """1 for each pair in the same order, 1/2 for one that only one ranking ties."""
    pairs: int
    """Number of pairs that at least one of the rankings orders."""

    @property
    def share(self) -> float:
        """Share of the pairs in the same order; 1/2 is chance, also without any pair."""
        return self.points / self.pairs if self.pairs else 0.5


def compared(one: Sequence[float], other: Sequence[float]) -> Agreed:
    """Compares two rankings of K responses; pairs that both tie are left out.

    Args:
        one: K ranks, 1 the best.
        other: K ranks of the same responses.
    """
    points, pairs = 0.0, 0
    for i, j in combinations(range(len(one)), 2):
        signs = _sign(one[i] - one[j]), _sign(other[i] - other[j])
        if signs != (0, 0):
            points += (1 + signs[0] * signs[1]) / 2
            pairs += 1
    return Agreed(points, pairs)


def agreement(rankings: Iterable[tuple[Sequence[float], Sequence[float]]]) -> Agreed:
    """Adds `compared` over several tasks."""
    found = [compared(one, other) for one, other in rankings]
    return Agreed(sum(one.points for one in found), sum(one.pairs for one in found))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def predicted(rewards: Sequence[float], ranks: Sequence[int]) -> Agreed:
    """Compares rewards with a labeler's ranking; pairs that the labeler ties are left out, as in training.

    Args:
        rewards: K rewards, higher is better.
        ranks: K ranks of the same responses, 1 the best.
    """
    pairs = [(i, j) for i, j in combinations(range(len(ranks)), 2) if ranks[i] != ranks[j]]
    points = sum((1 - _sign(rewards[i] - rewards[j]) * _sign(ranks[i] - ranks[j])) / 2 for i, j in pairs)
    return Agreed(points, len(pairs))
