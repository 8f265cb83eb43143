"""Simulated people who disagree, as labelers: which of a few properties of a text each of them likes, and how much.

They stand in for the labelers of the paper, half of whom prefer the other response in about a quarter of all
comparisons (section 3.4). Each is a labeler by import path, such as `evidence.people.ada` for `lit-instruct sample
--labeler`. They see words, not meaning: which are pleasant (by one of two word lists that were made independently),
which occur in the prompt too, how many there are, how often they repeat, and whether the text ends as a sentence does.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lit_instruct.evaluation.labelers import compound, is_finished, repetition_penalty, second_opinion, words

ENOUGH_NAMED = 3
"""Words in common with the prompt from which on a response is on topic."""
LONG_WORD = 5
"""Letters from which on a word counts as one that has a topic."""


@dataclass(frozen=True)
class Person:
    """A simulated labeler: a weighted sum of properties, and noise.

    ``score = tone t + topic n + finished f - repetition r - length |w - ideal| / ideal + noise e``

    with t in [-1, 1] the sentiment by the person's word list, n in [0, 1] the share of three long words in common with
    the prompt, f 1 for finished text, r in [0, 1] the penalty for repetition, w the number of words, and e a standard
    normal number that person, prompt and response determine: the same question gets the same answer.
    """

    name: str
    lexicon: Literal["vader", "afinn"]
    tone: float
    topic: float
    finished: float
    repetition: float
    length: float
    ideal: int
    """Words of the response that this person likes best."""
    noise: float
    """Standard deviation, in units of the score: close calls go either way."""

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Returns the scores of (prompt, response) pairs; higher is better."""
        return [self.score(prompt, response) for prompt, response in pairs]

    def score(self, prompt: str, response: str) -> float:
        """Returns the score of one response."""
        said = words(response)
        tone = compound(response) if self.lexicon == "vader" else second_opinion([(prompt, response)])[0]
        draw = random.Random(f"{self.name}\n{prompt}\n{response}").gauss(0.0, 1.0)
        return (
            self.tone * tone
            + self.topic * named(prompt, response)
            + self.finished * is_finished(response)
            - self.repetition * repetition_penalty(response)
            - self.length * abs(len(said) - self.ideal) / self.ideal
            + self.noise * draw
        )


def named(prompt: str, response: str) -> float:
    """Returns how many long words of the prompt a response says, as a share of `ENOUGH_NAMED`, at most 1."""
    shared = {word for word in words(prompt) if len(word) >= LONG_WORD} & set(words(response))
    return min(len(shared), ENOUGH_NAMED) / ENOUGH_NAMED


ada = Person("ada", "vader", tone=1.0, topic=0.6, finished=0.8, repetition=1.0, length=0.2, ideal=15, noise=0.2)
ben = Person("ben", "afinn", tone=1.5, topic=0.8, finished=0.6, repetition=0.5, length=0.2, ideal=25, noise=0.2)
cleo = Person("cleo", "vader", tone=0.6, topic=1.0, finished=0.8, repetition=1.0, length=0.3, ideal=20, noise=0.2)
dan = Person("dan", "afinn", tone=1.0, topic=0.6, finished=1.0, repetition=0.5, length=0.4, ideal=12, noise=0.2)
eve = Person("eve", "vader", tone=0.8, topic=0.8, finished=0.5, repetition=1.5, length=0.1, ideal=20, noise=0.2)
PEOPLE = (ada, ben, cleo, dan, eve)

"""Chosen so that two of them agree in about three quarters of the pairs of the SFT model's responses."""
