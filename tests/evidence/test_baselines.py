"""Baselines that see the response alone, and agreement with people, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from evidence.baselines import agreement, by_length, by_words

ROWS = [
    {"prompt": "a", "responses": ["good film", "bad"], "ranks": [1, 2]},
    {"prompt": "b", "responses": ["bad one", "so good a film", "a bad film"], "ranks": [2, 1, 2]},
]
ALL = np.arange(2)


def test_agreement_by_hand() -> None:
    found = agreement([1.0, 0.0, 0.5, 0.5, 2.0], ROWS)
    assert found.correct.tolist() == [1.0, 0.5] and found.pairs.tolist() == [1.0, 2.0]
    assert found.share(ALL) == 0.5
    assert found.share(np.array([0, 0, 1])) == pytest.approx(2.5 / 4)


def test_the_direction_of_length_is_learnt() -> None:
    assert by_length(ROWS, ROWS) == [9, 3, 7, 14, 10]
    reversed_rows = [row | {"ranks": [3 - rank for rank in row["ranks"]]} for row in ROWS]
    assert by_length(reversed_rows, ROWS) == [-9, -3, -7, -14, -10]


def test_words_are_learnt_from_the_best_responses() -> None:
    unseen = [{"prompt": "c", "responses": ["a good show", "a bad show"], "ranks": [1, 2]}]
    assert agreement(by_words(ROWS, unseen), unseen).share(np.arange(1)) == 1.0
