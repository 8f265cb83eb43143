"""A labeler that sees the prompt: a response that would fit any prompt scores low, however friendly it is.

`helpful` asks a frozen language model whether response and prompt make each other more probable, and takes points off
for an echo of the prompt, lists of keywords, words said again, unfinished and repetitive text, a harsh tone, and texts
that are much too long. Words that the response copies from its prompt count for nothing in one of the two
directions, so that naming the topic is no answer.

It hardly knows whether a statement is true or makes sense: docs/rewards.md says how often it is right, by kind of
fault. It reads English only, and it runs the embedded model three times per response.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from lit_instruct.evaluation.labelers import WORD, compound, is_finished, repeated_share, repetition_penalty, words
from lit_instruct.evaluation.prompt_gain import PromptGain, embedded_gain

MOST_GAIN = 4.0
"""From here on more gain adds nothing."""
FREE_ECHO = 0.2
"""Overlap with the prompt that costs nothing: answers name what they are about."""
FREE_HARSHNESS = 0.3
"""How far a response may be more negative than its prompt for nothing."""
MOST_RESPONSE_GAIN = 8.0
FREE_RESTATED = 0.1
LEAST_FUNCTION_WORDS = 0.25
MOST_HEADING_WORDS = 10
MOST_WORDS = 60
_FUNCTION_WORDS = (
    "a an the of to in on at for and or but is are was were be been it its i i'm you your he she they we my me his her "
    "their our this that with as by from about do does did not no so if what why how who which when where can could "
    "will would should there one two"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that say little by themselves; "one" and "two" stand in many prompts."""


class Features(NamedTuple):
    """What `helpful` looks at; all but the two gains take points off and are 0 for a response without the fault."""

    gain: float
    """`PromptGain.gains` of the response without the words that it copies (`uncopied`), in nats, in [-4, 4]."""
    response_gain: float
    """`PromptGain.response_gains`, in nats, in [-8, 8]."""
    listing: float
    """By how much the share of function words is below 1/4, in texts of more than 4 words: a list of keywords."""
    restated: float
    """Share of content words that occurred before, above 0.1."""
    echo: float
    """`echo`, above 0.2."""
    unfinished: float
    """1 unless the text ends as a sentence does (`labelers.is_finished`) or is a heading (`is_heading`)."""
    repetition: float
    """`labelers.repetition_penalty`, in [0, 1]."""
    harsh: float
    """VADER's compound sentiment of the prompt, if below 0, minus that of the response, above 0.3."""
    length: float
    """1 for a response without words; words above 60 in units of 60, at most 1."""


WEIGHTS = Features(
    gain=0.83,
    response_gain=0.31,
    listing=-7.7,
    restated=-3.84,
    echo=-5.04,
    unfinished=-2.11,
    repetition=-1.49,
    harsh=-3.42,
    length=-2.11,
)
"""Logistic regression on the development pairs of recipes/demo/labeler_pairs.jsonl, by `python -m benchmarks.labeler
--fit`; those pairs have no empty or overlong responses, whose weight is set to that of unfinished text."""
BIAS = -0.68
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
    """Returns the features of each (prompt, response) pair, by the embedded base."""
    return features_by(embedded_gain(), pairs)


def features_by(model: PromptGain, pairs: Sequence[tuple[str, str]]) -> list[Features]:
    """Returns the features of each pair.

    Args:
        model: the language model that is asked.
        pairs: (prompt, response) texts.
    """
    prompts, responses = [prompt for prompt, _ in pairs], [response for _, response in pairs]
    gains = model.gains(prompts, [uncopied(prompt, response) for prompt, response in pairs])
    back = model.response_gains(prompts, responses)
    return [features_of(*pair, gain, other) for pair, gain, other in zip(pairs, gains, back, strict=True)]


def features_of(prompt: str, response: str, gain: float, response_gain: float) -> Features:
    """Returns the features of a response, given its gains.

    Args:
        prompt: text.
        response: text.
        gain: as `PromptGain.gains` returns it for the `uncopied` response.
        response_gain: as `PromptGain.response_gains` returns it.
    """
    said = words(response)
    content = [stem(word) for word in said if word not in FUNCTION_WORDS]
    function_share = 1 - len(content) / max(len(said), 1)
    return Features(
        gain=_clipped(gain, MOST_GAIN),
        response_gain=_clipped(response_gain, MOST_RESPONSE_GAIN),
        listing=max(0.0, LEAST_FUNCTION_WORDS - function_share) if len(said) > 4 else 0.0,
        restated=max(0.0, repeated_share(content) - FREE_RESTATED),
        echo=max(0.0, echo(prompt, response) - FREE_ECHO),
        unfinished=0.0 if is_finished(response) or is_heading(response) else 1.0,
        repetition=repetition_penalty(response),
        harsh=max(0.0, min(compound(prompt), 0.0) - compound(response) - FREE_HARSHNESS),
        length=min(1.0, max(0.0, len(said) / MOST_WORDS - 1)) if said else 1.0,
    )


def uncopied(prompt: str, response: str) -> str:
    """Returns the response without the content words that stand in its prompt; others of the same stem count as well.

    "I'd love to help with your comedy about a lift!" tells much about a prompt that names both, and nothing without
    them.

    Args:
        prompt: text.
        response: text.
    """
    asked = {stem(word) for word in words(prompt) if word not in FUNCTION_WORDS}
    kept = WORD.sub(lambda found: "" if stem(found.group().lower()) in asked else found.group(), response)
    return " ".join(kept.split())


def stem(word: str) -> str:
    """Returns the first five letters of a word in lower case: "lifts" and "lift's" are "lift", roughly."""
    return word.removesuffix("'s")[:5].removesuffix("s")


def is_heading(text: str) -> bool:
    """Returns whether a text is 2 to 10 words on one line that need no full stop, as a title or a name does not.

    It begins with a capital letter and ends with a letter, and its last word is not one that asks for another ("of").
    """
    said, stripped = words(text), text.strip()
    short = 2 <= len(said) <= MOST_HEADING_WORDS and "\n" not in stripped
    return short and stripped[0].isupper() and stripped[-1].isalnum() and said[-1] not in FUNCTION_WORDS


def echo(prompt: str, response: str) -> float:
    """Returns how far a response says its prompt again, in [0, 1].

    The smaller of two shares: of the response's word bigrams that stand in the prompt, and of the prompt's bigrams that
    stand in the response. A short span taken from a long passage is no echo.
    """
    asked, said = _bigrams(prompt), _bigrams(response)
    return min(_share_of(said, asked), _share_of(asked, said))


def _clipped(value: float, most: float) -> float:
    return min(max(value, -most), most)


def _bigrams(text: str) -> list[tuple[str, str]]:
    return list(pairwise(words(text)))


def _share_of(bigrams: list[tuple[str, str]], others: list[tuple[str, str]]) -> float:
    there = set(others)
    return sum(bigram in there for bigram in bigrams) / len(bigrams) if bigrams else 0.0
