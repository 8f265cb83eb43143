"""Ranks from comparisons, and noise that depends on content alone."""

from __future__ import annotations

import pytest

from lit_instruct.errors import UserError
from lit_instruct.judging.comparisons import Noise, flipped, outcomes_of, ranks, wins

TEXTS = ["a", "b", "c", "d"]


def test_ranks() -> None:
    assert ranks([0.5, 0.9, 0.5, 0.1]) == [2, 1, 2, 3]
    assert ranks([1.0, 1.0]) == [1, 1]
    assert ranks([3, 2, 1]) == [1, 2, 3]
    assert ranks([]) == []


def test_outcomes_of_scores() -> None:
    assert outcomes_of([1, 2, 1]) == [[0.5, 0, 0.5], [1, 0.5, 1], [0.5, 0, 0.5]]
    assert wins(outcomes_of([1, 2, 1])) == [0.5, 2, 0.5]


@pytest.mark.parametrize("scores", [[3.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [5.0, -1.0]])
def test_wins_order_responses_as_their_scores_do(scores: list[float]) -> None:
    assert ranks(wins(outcomes_of(scores))) == ranks(scores)


def test_a_certain_flip_turns_the_order_around_and_keeps_ties() -> None:
    turned = flipped(outcomes_of([3, 1, 2, 1]), "p", TEXTS, Noise(1.0))
    assert ranks(wins(turned)) == [3, 1, 2, 1]
    assert ranks(wins(flipped(outcomes_of([2, 2]), "p", ["a", "b"], Noise(1.0)))) == [1, 1]


def test_equal_texts_are_never_told_apart() -> None:
    for seed in range(20):
        noisy = wins(flipped(outcomes_of([1, 0, 1, 2]), "p", ["a", "b", "a", "c"], Noise(0.5, seed)))
        assert noisy[0] == noisy[2]


def test_half_of_one_answer_stays_half() -> None:
    assert flipped([[0.5, 0.75], [0.25, 0.5]], "p", ["a", "b"], Noise(1.0)) == [[0.5, 0.25], [0.75, 0.5]]


def test_the_share_of_flips_is_the_probability() -> None:
    pairs = [(f"prompt {n}", ["yes", "no"]) for n in range(2000)]
    for flip in (0.1, 0.25):
        turned = sum(flipped([[0.5, 1], [0, 0.5]], prompt, texts, Noise(flip))[0][1] == 0 for prompt, texts in pairs)
        assert abs(turned / 2000 - flip) < 3 * (flip * (1 - flip) / 2000) ** 0.5


def test_flips_depend_on_prompt_texts_and_seed_not_on_the_order() -> None:
    def signs(prompt: str, texts: list[str], seed: int) -> dict[tuple[str, str], float]:
        found = flipped([[0.75] * len(texts)] * len(texts), prompt, texts, Noise(0.5, seed))
        return {(a, b): found[i][j] for i, a in enumerate(texts) for j, b in enumerate(texts) if a != b}

    texts = [f"text {n}" for n in range(9)]
    first = signs("p", texts, 0)
    assert signs("p", texts[::-1], 0) == first
    assert signs("p", texts[:4], 0).items() <= first.items()
    assert signs("p", texts, 1) != first
    assert signs("q", texts, 0) != first


@pytest.mark.parametrize("flip", [-0.1, 1.5, float("nan")])
def test_no_probability(flip: float) -> None:
    with pytest.raises(UserError, match=f"--noise.flip={flip}: a probability lies between 0 and 1"):
        Noise(flip)
