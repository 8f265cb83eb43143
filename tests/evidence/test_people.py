"""Simulated people: deterministic, disagreeing in a fair share of pairs, usable as labelers of `sample`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evidence import people
from evidence.agreement import mean_agreement
from evidence.people import PEOPLE, named
from lit_instruct.rollouts.reward_functions import function_scorer

PROMPT = "Write a short poem about the lighthouse keeper and the winter storm."
RESPONSES = [
    "The lighthouse keeper smiled, for the winter storm had passed and the sea was calm and lovely.",
    "Great!",
    "The keeper hated the storm and",
    "A poem is a poem is a poem is a poem.",
    "Storms are bad.",
]


def test_a_person_gives_the_same_answer_to_the_same_question() -> None:
    for person in PEOPLE:
        one, other = (person([(PROMPT, text) for text in texts]) for texts in (RESPONSES, RESPONSES[::-1]))
        assert one == other[::-1]


def test_noise_is_normal_and_differs_between_people() -> None:
    pairs = [(f"Question {number}?", "An answer.") for number in range(2000)]
    for person in PEOPLE[:2]:
        quiet = replace(person, noise=0.0)(pairs)
        noise = [loud - still for loud, still in zip(person(pairs), quiet, strict=True)]
        assert sum(noise) / 2000 == pytest.approx(0.0, abs=0.02)
        assert (sum(x * x for x in noise) / 2000) ** 0.5 == pytest.approx(person.noise, rel=0.05)
    first, second = (replace(person, noise=1.0)(pairs[:1]) for person in PEOPLE[:2])
    assert first != second


def test_a_score_by_hand() -> None:
    person = replace(people.ada, tone=0.0, topic=1.0, finished=0.5, repetition=0.0, length=0.1, ideal=10, noise=0.0)
    text = "The lighthouse keeper waits."  # two of three long words, finished, 4 words
    assert person.score(PROMPT, text) == pytest.approx(2 / 3 + 0.5 - 0.1 * 6 / 10)


def test_named_counts_each_long_word_once_and_at_most_three() -> None:
    assert named(PROMPT, "Lighthouse, lighthouse!") == pytest.approx(1 / 3)
    assert named(PROMPT, "A lighthouse keeper in a winter storm") == 1.0
    assert named(PROMPT, "and the poem") == 0.0  # short words have no topic


def test_people_prefer_an_answer_to_empty_praise_but_not_always_alike() -> None:
    scores = [[person([(PROMPT, text) for text in RESPONSES])] for person in PEOPLE]
    assert all(own[0][0] > own[0][1] for own in scores)
    assert 0.5 < mean_agreement(scores) < 1.0


def test_sample_takes_a_person_by_import_path() -> None:
    scorer = function_scorer("evidence.people.ben", option="--labeler")
    assert scorer([PROMPT], RESPONSES[:1], [{}]) == people.ben([(PROMPT, RESPONSES[0])])
