"""What the last line of an answer says."""

from __future__ import annotations

import pytest

from lit_instruct.judging.verdicts import order, preferred, rating


@pytest.mark.parametrize(
    ("answer", "ranks"),
    [
        ("A", [1, 2]),
        ("  b.\n\n", [2, 1]),
        ("The second is wrong.\n\n**Verdict: A**", [1, 2]),
        ("A is shorter.\nB is better, so:\n[[B]]", [2, 1]),
        ("Response B", [2, 1]),
        ("Tie", [1, 1]),
        ('"A"', [1, 2]),
        ("", None),
        ("C", None),
        ("A or B", None),
        ("A\nbecause it is short", None),
    ],
)
def test_preferred(answer: str, ranks: list[int] | None) -> None:
    assert preferred(answer) == ranks


@pytest.mark.parametrize(
    ("answer", "k", "ranks"),
    [
        ("B > A = C", 3, [2, 1, 2]),
        ("why\nOrder: c>a>b.", 3, [2, 3, 1]),
        ("A=B", 2, [1, 1]),
        ("`D > C > B > A`", 4, [4, 3, 2, 1]),
        ("A > B", 3, None),
        ("A > B > D", 3, None),
        ("A > B > A", 2, None),
        ("A >> B", 2, None),
        ("none", 2, None),
        ("", 2, None),
    ],
)
def test_order(answer: str, k: int, ranks: list[int] | None) -> None:
    assert order(answer, k) == ranks


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("7", 7.0),
        ("Good.\n\nRating: 7.5", 7.5),
        ("**10/10**", 10.0),
        ("(3)", 3.0),
        ("7/100", None),
        ("11", None),
        ("0", None),
        ("seven", None),
        ("nan", None),
        ("between 3 and 4", None),
        ("", None),
    ],
)
def test_rating(answer: str, value: float | None) -> None:
    assert rating(answer, (1, 10)) == value
