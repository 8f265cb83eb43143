"""The overlap with reference responses, on words that can be counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from lit_instruct.errors import UserError
from lit_instruct.evaluation.references import overlap, reference_of

TURNS = [
    {"role": "user", "content": "Which colour? "},
    {"role": "assistant", "content": "Red."},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "Blue."},
]


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("The sea is blue.", 1.0),
        ("the SEA, is blue", 1.0),
        ("The sea", 2 * 2 / (2 + 4)),
        ("The sea is blue. " * 4, 2 * 4 / (16 + 4)),  # padding does not pay
        ("It was green", 0.0),
        ("", 0.0),
    ],
)
def test_f1_of_words(response: str, score: float) -> None:
    assert overlap(["p"], [response], [{"reference": "The sea is blue."}]) == [pytest.approx(score)]


@pytest.mark.parametrize(
    ("prompt", "row", "found"),
    [
        ("p", {"completion": " Short."}, " Short."),
        ("p", {"response": "a", "reference": "b"}, "b"),
        ("Which colour?", {"messages": TURNS}, "Red."),
        ([*TURNS[:2], TURNS[2]], {"messages": TURNS}, "Blue."),
        ("p", {"completion": TURNS[1:2]}, "Red."),
        ("another question", {"messages": TURNS}, None),
        ("p", {"use_case": "chat", "answer": 7}, None),
        ("p", {"messages": "text"}, None),
    ],
)
def test_the_reference_of_a_row(prompt: Any, row: dict[str, Any], found: str | None) -> None:
    assert reference_of(prompt, row) == found


def test_a_row_without_a_reference_is_named() -> None:
    with pytest.raises(UserError, match="no reference response for 'Why\\?'"):
        overlap(["Why?"], ["Because."], [{}])
