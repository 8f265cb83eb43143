"""The labelers on texts whose scores can be worked out by hand."""

from __future__ import annotations

import pytest

from lit_instruct.evaluation import labelers


def tone(text: str) -> float:
    return labelers.tone([("a prompt", text)])[0]


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("It works.", True),
        ("It works!", True),
        ("Does it?", True),
        ('She said "yes."', True),
        ("(It works.)", True),
        ("**Done.**", True),
        ("Great work! \N{GRINNING FACE}", True),
        ("It works. \n", True),
        ("It works", False),
        ("It works, and", False),
        ("It works:", False),
        ("And then...", False),
        ("And then\N{HORIZONTAL ELLIPSIS}", False),
        ("1. apples\n2.", False),
        ("Apples.\n-", False),
        ("", False),
    ],
)
def test_is_finished(text: str, finished: bool) -> None:
    assert labelers.is_finished(text) is finished


def test_repeated_share() -> None:
    assert labelers.repeated_share([]) == 0.0
    assert labelers.repeated_share(["a", "b", "a", "a"]) == 0.5


def test_repetition_penalty() -> None:
    assert labelers.repetition_penalty("The cat sat on the mat and looked at a bird.") == 0.0
    # Bigrams: go on, on go, go on, on go, go on: 3 of 5 repeated, 0.1 of it free; a single sentence.
    assert labelers.repetition_penalty("go on go on go on") == pytest.approx(0.5)
    # 1 of 2 sentences repeated (0.5 x 0.5); bigrams: we won, won we, we won: 1 of 3 repeated.
    assert labelers.repetition_penalty("We won. We won.") == pytest.approx(0.25 + 1 / 3 - 0.1)
    assert labelers.repetition_penalty("Good. " * 50) == 1.0


def test_tone_is_vaders_compound_for_finished_text() -> None:
    # "good" has 1.9 in VADER's lexicon: 1.9 / sqrt(1.9^2 + 15) = 0.4404, rounded there to four digits.
    assert tone("The book is good.") == 0.4404
    assert tone("The book is on the table.") == 0.0
    assert tone("The book is bad.") == -0.5423


def test_tone_of_unfinished_text_is_half_a_point_lower() -> None:
    assert tone("The book is good") == pytest.approx(0.4404 - 0.5)


@pytest.mark.parametrize("text", ["", "  \n", "!!!", "..."])
def test_tone_without_words(text: str) -> None:
    assert tone(text) == -1.5


def test_tone_does_not_pay_for_repetition() -> None:
    assert tone("I love it. " * 10) < tone("I love it.")


def test_tone_stays_in_its_range() -> None:
    assert tone("bad awful terrible " * 40) >= -2.5
    assert tone("wonderful great lovely happy joyful superb excellent delightful cheerful friends!") <= 1.0


def test_labelers_score_each_pair_in_order_and_ignore_the_prompt() -> None:
    pairs = [("p", "The book is good."), ("q", ""), ("terrible", "The book is good.")]
    assert labelers.tone(pairs) == [0.4404, -1.5, 0.4404]
    first, second, third = labelers.second_opinion(pairs)
    assert first == third
    assert second == 0.0
    assert labelers.tone([]) == labelers.second_opinion([]) == []


def test_second_opinion() -> None:
    def score(text: str) -> float:
        return labelers.second_opinion([("", text)])[0]

    # "good" is 3 in AFINN. Fewer than 10 words count as 10: v = 0.3, 0.3 / sqrt(0.09 + 0.25).
    assert score("The book is good.") == pytest.approx(0.514496, abs=1e-6)
    assert score("The book is on the table.") == 0.0
    assert score("The book is bad.") == pytest.approx(-0.514496, abs=1e-6)
    # A mean: saying it twice at twice the length changes nothing, an exclamation mark neither.
    ten = "the book that I have read is very good indeed"
    assert score(ten) == pytest.approx(score(f"{ten} {ten}"))
    assert score(f"{ten}!!!") == score(ten)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("The sea is wide.", 0.0),
        ("I hate it.", 0.0),
        ("The sea is", -0.5),
        ("No. No. No. No.", -(2 / 3 - 0.1 + 0.5 * 3 / 4)),
        ("", -1.5),
    ],
)
def test_form_takes_points_off_whatever_is_said(text: str, score: float) -> None:
    assert labelers.form([("a prompt", text)]) == [pytest.approx(score)]
