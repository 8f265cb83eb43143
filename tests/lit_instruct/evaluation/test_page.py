"""Numbers and turns as a page writes them."""

from __future__ import annotations

import pytest

from lit_instruct.evaluation import page


def test_numbers() -> None:
    minus = "\N{MINUS SIGN}"
    assert page.number(-1.234) == f"{minus}1.23"
    assert page.number(-0.001) == "0.00"
    assert page.number(None) == "n/a"
    assert page.signed(0.25) == "+0.25"
    assert page.signed(0.001) == "0.00"
    assert page.signed(-0.25) == f"{minus}0.25"
    assert page.percent(0.834) == "83 %"
    assert page.percent(None) == "n/a"


@pytest.mark.parametrize(
    ("share", "decimal", "whole"),
    [
        (0.715, "0.72", "72 %"),
        (0.705, "0.71", "71 %"),
        (0.805, "0.81", "81 %"),
        (0.285, "0.29", "29 %"),
        (0, "0.00", "0 %"),
    ],
)
def test_a_share_is_rounded_in_the_same_way_as_a_percentage(share: float, decimal: str, whole: str) -> None:
    """Half up by the decimal digits: 0.715 is stored as slightly less, 100 times it is 71.5."""
    assert page.number(share) == decimal
    assert page.percent(share) == whole
    assert page.number(-share) == ("\N{MINUS SIGN}" if share else "") + decimal
    assert page.signed(share) == ("+" if share else "") + decimal


def test_turns() -> None:
    assert page.turns("hello") == [("user", "hello")]
    assert page.turns([{"role": "system", "content": "be kind"}]) == [("system", "be kind")]
