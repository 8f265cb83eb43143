"""Reward models that learn from all people but one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evidence.held_out_people import HeldOut, accuracies, compared_by, intervals, without
from evidence.people import PEOPLE

ROWS: list[dict[str, Any]] = [
    {"prompt": f"Describe the garden number {i}.", "responses": ["A lovely garden.", "Bad weeds and", "No."]}
    for i in range(10)
]


def test_each_prompt_has_one_person_and_the_left_out_one_has_none() -> None:
    found = without(PEOPLE[1], ROWS)
    others = [person.name for person in PEOPLE if person is not PEOPLE[1]]
    assert [row["labeler"] for row in found] == others * 2
    assert [row["prompt"] for row in found] == [row["prompt"] for i, row in enumerate(ROWS) if i % 5 != 1]


def test_ranks_are_those_of_the_person() -> None:
    (row,) = compared_by(PEOPLE[0], ROWS[:1])
    scores = PEOPLE[0]([(row["prompt"], text) for text in row["responses"]])
    assert [scores[i] for i in np.argsort(row["ranks"])] == sorted(scores, reverse=True)


def test_a_reward_model_that_copies_a_person_agrees_with_it() -> None:
    own = [[PEOPLE[2]([(row["prompt"], text) for text in row["responses"]]) for row in ROWS]] * 5
    found = accuracies(own, ROWS)
    assert found.accuracy.shape == (1, 5, 5, 10)
    assert found.accuracy[0, :, 2].min() == 1.0
    assert 0.4 < found.agreement < 1.0


def test_training_and_held_out_people_by_hand() -> None:
    table = np.full((2, 5, 5, 3), 0.8)
    table[:, range(5), range(5)] = 0.6
    table[0, 0, 0, 0] = 0.9
    found = intervals(HeldOut(table, 0.7), n=50)
    assert found["training"] == pytest.approx((0.8, 0.8, 0.8))
    assert found["held_out"].mean == pytest.approx(0.6 + 0.3 / 30)
    assert found["difference"].mean == pytest.approx(0.2 - 0.3 / 30)
    assert found["difference"].ci_high == pytest.approx(0.2)
