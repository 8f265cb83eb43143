"""Numbers and turns as a page writes them."""

from __future__ import annotations

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


def test_turns() -> None:
    assert page.turns("hello") == [("user", "hello")]
    assert page.turns([{"role": "system", "content": "be kind"}]) == [("system", "be kind")]
