"""From comparisons of two responses to ranks: who won against whom, noise that flips comparisons, and the order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_instruct.errors import UserError

Outcomes = list[list[float]]
"""(K, K): 1 where response i won against j, 0 where it lost, 1/2 for a tie, and anything between for a judge that was
asked several times; [i][j] + [j][i] = 1."""


@dataclass(frozen=True)
class Noise:
    """Noise that makes an automatic labeler disagree with others, as people do (AlpacaFarm, Dubois et al. 2023).

    Args:
        flip: probability with which the outcome of each comparison of two responses is exchanged; the ranks follow the
            number of comparisons won.
        seed: of what is flipped; the same comparison is flipped in every call with the same seed.
    """

    flip: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the range."""
        if not 0 <= self.flip <= 1:
            raise UserError(f"--noise.flip={self.flip}: a probability lies between 0 and 1")


def outcomes_of(scores: Sequence[float]) -> Outcomes:
    """Returns the comparisons of K responses by their scores; higher is better, equal scores tie."""
    return [[(1 + (mine > other) - (mine < other)) / 2 for other in scores] for mine in scores]


def flipped(outcomes: Outcomes, prompt: Any, responses: Sequence[str], noise: Noise) -> Outcomes:
    """Returns the comparisons after the noise.

    Whether two responses are flipped follows from the seed, the prompt and the two texts alone: not from the order of
    calls or responses.

    Args:
        outcomes: of the K responses.
        prompt: a text or messages.
        responses: K texts.
        noise: how much.
    """
    if not noise.flip:
        return outcomes
    return [
        [
            1 - outcome if one != other and _draw(noise.seed, prompt, one, other) < noise.flip else outcome
            for outcome, other in zip(row, responses, strict=True)
        ]
        for row, one in zip(outcomes, responses, strict=True)
    ]


def _draw(seed: int, prompt: Any, one: str, other: str) -> float:
    """A number in [0, 1) for two responses, whichever comes first."""
    said = json.dumps([seed, prompt, *sorted((one, other))]).encode()
    return int.from_bytes(hashlib.sha256(said).digest()[:8]) / 2**64


def wins(outcomes: Outcomes) -> list[float]:
    """Returns how many comparisons each of K responses won; ties count half."""
    return [round(sum(row) - row[i], 9) for i, row in enumerate(outcomes)]


def ranks(scores: Sequence[float]) -> list[int]:
    """Returns 1 for the highest score, equal ranks for equal scores: [0.5, 0.9, 0.5] -> [2, 1, 2]."""
    order = sorted(set(scores), reverse=True)
    return [order.index(score) + 1 for score in scores]
