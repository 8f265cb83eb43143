"""How often two labelers, or a reward model and a labeler, order two responses to a prompt alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

Scores = Sequence[Sequence[float]]
"""Of each prompt, of its responses; prompts may differ in their number of responses."""


def agreed(ours: Scores, theirs: Scores) -> np.ndarray:
    """Returns the share of each prompt's pairs of responses that are ordered alike: (P,).

    Pairs that are equal for `theirs` are left out, as ties of a labeler are in training; those that are equal for
    `ours` count half, and a prompt without a pair counts 1/2.

    Args:
        ours: scores of P prompts' responses, such as rewards.
        theirs: scores of the same responses, such as a labeler's.
    """
    return np.array([_share(one, other) for one, other in zip(ours, theirs, strict=True)])


def _share(ours: Sequence[float], theirs: Sequence[float]) -> float:
    signs = [np.sign(np.subtract.outer(scores, scores))[np.triu_indices(len(scores), 1)] for scores in (ours, theirs)]
    counted = signs[1] != 0
    return float(((1 + signs[0] * signs[1]) / 2)[counted].mean()) if counted.any() else 0.5


def mean_agreement(scores: Sequence[Scores]) -> float:
    """Returns the mean of `agreed` over all pairs of people: 1/2 is chance; at least two people."""
    return float(np.mean([agreed(one, other).mean() for one, other in combinations(scores, 2)]))
