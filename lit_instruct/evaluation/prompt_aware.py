"""A labeler that sees the prompt: a response that would fit any prompt scores low, however friendly it is.

`helpful` asks a frozen language model whether the response makes its prompt more probable, and takes points off for an
echo of the prompt, unfinished and repetitive text, a harsh tone, and texts that are much too short or long.

It does not know whether a statement is true, and wrong answers about the right thing score as high as right ones. It
reads English only, and it runs the embedded model once per response. Naming the prompt's topic is the known way to game
it: "I'd be happy to help with your comedy about a lift!" scores higher than a plot idea (docs/rewards.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from lit_instruct.evaluation.labelers import compound, is_finished, repetition_penalty, words
from lit_instruct.evaluation.prompt_gain import embedded_gain

MOST_GAIN = 4.0
"""From here on more gain adds nothing."""
FREE_ECHO = 0.2
"""Overlap with the prompt that costs nothing: answers name what they are about."""
FREE_HARSHNESS = 0.3
"""How far a response may be more negative than its prompt for nothing."""
FEWEST_WORDS, MOST_WORDS = 4, 60


class Features(NamedTuple):
    """What `helpful` looks at; all but the gain take points off and are 0 for a response without the fault."""

    gain: float
    """`PromptGain.gains`, in nats, at most 4 and at least -4."""
    echo: float
    """`echo`, above 0.2."""
    unfinished: float
    """1 unless the text ends as a sentence does (`labelers.is_finished`)."""
    repetition: float
    """`labelers.repetition_penalty`, in [0, 1]."""
    harsh: float
    """VADER's compound sentiment of the prompt, if below 0, minus that of the response, above 0.3."""
    length: float
    """Share of 4 words that is missing, or words above 60 in units of 60, at most 1."""


WEIGHTS = Features(gain=0.56, echo=-6.14, unfinished=-2.53, repetition=-5.23, harsh=-3.81, length=-2.53)
"""Logistic regression on the development pairs of recipes/demo/labeler_pairs.jsonl, by `python -m benchmarks.labeler
--fit`; those pairs have no responses of a wrong length, whose weight is set to that of unfinished text."""
BIAS = -0.08
"""Added to the weighted sum: the mean score over the development pairs is then about 0."""


def helpful(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Returns whether each response is a finished, decent answer to its own prompt, in [-1, 1]; see `score_of`.

    The same call gives the same scores. The language model takes the dtype that is faster on this processor; scores in
    bfloat16 differ from those in float32 by a few hundredths.

    Args:
        pairs: (prompt, response) texts.
    """
    return [score_of(row) for row in features(pairs)]


def score_of(row: Features) -> float:
    """Returns ``tanh((w . f + b) / 2)`` for features f, with w = `WEIGHTS` and b = `BIAS`, in (-1, 1).

    That is twice the probability of a logistic regression, minus 1. A response without words gets about -1.
    """
    return math.tanh((BIAS + sum(weight * value for weight, value in zip(WEIGHTS, row, strict=True))) / 2)


def features(pairs: Sequence[tuple[str, str]]) -> list[Features]:
    """Returns the features of each (prompt, response) pair."""
    gains = embedded_gain().gains([prompt for prompt, _ in pairs], [response for _, response in pairs])
    return [features_of(prompt, response, gain) for (prompt, response), gain in zip(pairs, gains, strict=True)]


def features_of(prompt: str, response: str, gain: float) -> Features:
    """Returns the features of a response, given its gain.

    Args:
        prompt: text.
        response: text.
        gain: as `PromptGain.gains` returns it.
    """
    count = len(words(response))
    return Features(
        gain=min(max(gain, -MOST_GAIN), MOST_GAIN),
        echo=max(0.0, echo(prompt, response) - FREE_ECHO),
        unfinished=0.0 if is_finished(response) else 1.0,
        repetition=repetition_penalty(response),
        harsh=max(0.0, min(compound(prompt), 0.0) - compound(response) - FREE_HARSHNESS),
        length=max(0.0, 1 - count / FEWEST_WORDS, min(1.0, count / MOST_WORDS - 1)),
    )


def echo(prompt: str, response: str) -> float:
    """Returns how far a response says its prompt again, in [0, 1].

    The smaller of two shares: of the response's word bigrams that stand in the prompt, and of the prompt's bigrams that
    stand in the response. A short span taken from a long passage is no echo.
    """
    asked, said = _bigrams(prompt), _bigrams(response)
    return min(_share_of(said, asked), _share_of(asked, said))


def _bigrams(text: str) -> list[tuple[str, str]]:
    return list(pairwise(words(text)))


def _share_of(bigrams: list[tuple[str, str]], others: list[tuple[str, str]]) -> float:
    there = set(others)
    return sum(bigram in there for bigram in bigrams) / len(bigrams) if bigrams else 0.0
