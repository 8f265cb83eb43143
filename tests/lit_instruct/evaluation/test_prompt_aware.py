"""The labeler that sees the prompt: its features on literal examples, its score, and its choices on our own pairs."""

from __future__ import annotations

import math

import pytest

from benchmarks.labeler import UNFITTED, read_pairs, wins
from lit_instruct.evaluation import prompt_aware
from lit_instruct.evaluation.prompt_aware import (
    WEIGHTS,
    Features,
    echo,
    features_of,
    helpful,
    is_heading,
    score_of,
    stem,
    uncopied,
)
from lit_instruct.rollouts.reward_functions import function_scorer

PROMPT = "Why is the sea salty?"


def test_a_faultless_answer_has_its_gain_and_nothing_else() -> None:
    found = features_of(PROMPT, "Rivers carry minerals from rocks into the ocean.", 1.5, 2.5)
    assert found == Features(1.5, 2.5, listing=0, restated=0, echo=0, unfinished=0, repetition=0, harsh=0, length=0)


@pytest.mark.parametrize(("gain", "expected"), [(-9.0, -4.0), (3.9, 3.9), (12.0, 4.0)])
def test_the_gains_are_bounded(gain: float, expected: float) -> None:
    found = features_of(PROMPT, "Rivers carry minerals.", gain, 2 * gain)
    assert (found.gain, found.response_gain) == (expected, 2 * expected)


def test_copied_content_words_are_left_out_with_others_of_their_stem() -> None:
    prompt = "Give me one plot idea for a comedy about a broken lift."
    assert uncopied(prompt, "I'd love a comedy about lifts!") == "I'd love a about !"
    assert uncopied(prompt, "A clown is stuck.") == "A clown is stuck."
    assert uncopied("", "A clown.") == "A clown."


@pytest.mark.parametrize(
    ("word", "expected"),
    [("lift's", "lift"), ("lifts", "lift"), ("comedies", "comed"), ("comedy", "comed"), ("a", "a")],
)
def test_stem(word: str, expected: str) -> None:
    assert stem(word) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Empty Factory", True),
        ("The Empty Factory: A History of", False),
        ("the empty factory", False),
        ("Factory", False),
        ("The Empty\nFactory", False),
        ("The Empty Factory by", False),
        (" ".join(["Word"] * 10), True),
        (" ".join(["Word"] * 11), False),
        ("The Empty Factory -", False),
        ("", False),
    ],
)
def test_headings_need_no_full_stop(text: str, expected: bool) -> None:
    assert is_heading(text) is expected
    assert features_of(PROMPT, text, 0.0, 0.0).unfinished == float(not expected)


def test_lists_of_keywords_have_too_few_function_words() -> None:
    assert features_of(PROMPT, "Salt, sea, ocean, water, river, mineral.", 0.0, 0.0).listing == 0.25
    assert features_of(PROMPT, "Salt in sea water, rivers.", 0.0, 0.0).listing == pytest.approx(0.05)  # 1 of 5
    assert features_of(PROMPT, "Salt, sea, ocean, water.", 0.0, 0.0).listing == 0.0  # four words may be an answer


def test_content_words_said_again() -> None:
    # ship, float, water, ship, float: two of five, a tenth is free
    found = features_of(PROMPT, "Ships float by the water of the ship that floats.", 0.0, 0.0)
    assert found.restated == pytest.approx(0.4 - 0.1)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Why is the sea salty?", 1.0),
        ("why is THE sea salty", 1.0),
        ("The sea is salty.", 1 / 4),  # of "the sea", "sea is", "is salty" one in the prompt; it has four bigrams
        ("Because of minerals.", 0.0),
        ("Sea", 0.0),
        ("", 0.0),
    ],
)
def test_echo_is_the_overlap_in_bigrams(response: str, expected: float) -> None:
    assert echo(PROMPT, response) == pytest.approx(expected)


def test_a_short_span_of_a_long_passage_is_no_echo() -> None:
    passage = "The scarf is made of wool. It costs 34 pounds, and shipping is free. What does it cost?"
    assert echo(passage, "It costs 34 pounds.") == pytest.approx(3 / 17)
    assert features_of(passage, "It costs 34 pounds.", 0.0, 0.0).echo == 0.0


def test_only_echo_above_a_fifth_counts() -> None:
    assert features_of(PROMPT, "Why is the sea salty?", 0.0, 0.0).echo == pytest.approx(0.8)
    assert features_of(PROMPT, "The sea is salty.", 0.0, 0.0).echo == pytest.approx(0.05)


def test_unfinished_and_repeated_text() -> None:
    assert features_of(PROMPT, "Rivers carry minerals from", 0.0, 0.0).unfinished == 1.0
    assert features_of(PROMPT, "We won. We won.", 0.0, 0.0).repetition == pytest.approx(0.25 + 1 / 3 - 0.1)


def test_harshness_is_what_the_response_is_more_negative_than_its_prompt() -> None:
    # -2.5 for "bad" in VADER's lexicon: -2.5 / sqrt(2.5^2 + 15) = -0.5423; three tenths are free
    assert features_of("How is the book?", "The book here is bad.", 0.0, 0.0).harsh == pytest.approx(0.2423)
    assert features_of("Is it a bad book?", "The book here is bad.", 0.0, 0.0).harsh == 0.0
    assert features_of("How is the good book?", "The book here is bad.", 0.0, 0.0).harsh == pytest.approx(0.2423)


@pytest.mark.parametrize(("count", "expected"), [(0, 1.0), (1, 0.0), (60, 0.0), (90, 0.5), (120, 1.0), (300, 1.0)])
def test_length_has_a_soft_band(count: int, expected: float) -> None:
    response = " ".join(f"w{number}" for number in range(count))
    assert features_of(PROMPT, response, 0.0, 0.0).length == pytest.approx(expected)


def test_the_score_is_the_logistic_of_the_weighted_features() -> None:
    clean = Features(1.0, 0, listing=0, restated=0, echo=0, unfinished=0, repetition=0, harsh=0, length=0)
    assert score_of(clean) == pytest.approx(2 / (1 + math.exp(-(WEIGHTS.gain + prompt_aware.BIAS))) - 1)
    for fault in clean._fields[2:]:
        assert -1 < score_of(clean._replace(**{fault: 0.5})) < score_of(clean) < 1
    for gain in clean._fields[:2]:
        assert score_of(clean) < score_of(clean._replace(**{gain: 2.0})) < 1


@pytest.mark.slow
def test_it_picks_the_right_response_of_our_own_pairs() -> None:
    pairs = [pair for pair in read_pairs() if pair["kind"] not in UNFITTED]
    won = wins(helpful, pairs)
    assert len(won) == 272
    assert sum(won) / len(won) >= 0.90
    held_out = [value for value, pair in zip(won, pairs, strict=True) if pair["split"] == "held_out"]
    assert len(held_out) == 110
    assert sum(held_out) / len(held_out) >= 0.88


@pytest.mark.slow
def test_it_is_a_labeler_of_the_command_line() -> None:
    judge = function_scorer("lit_instruct.evaluation.prompt_aware.helpful", option="--labeler")
    prompt = "What is the capital of Norway?"
    responses = ["Oslo.", "That's a great starting point.", ""]
    answer, praise, empty = judge([prompt] * 3, responses, [{}] * 3)
    assert -1 < praise < answer < 1
    assert judge([prompt] * 3, responses, [{}] * 3) == [answer, praise, empty]
    assert empty < -0.9
