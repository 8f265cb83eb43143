"""Whether a claim holds, by its interval."""

from __future__ import annotations

import pytest

from evidence.claims import above, all_hold, claim, shown
from lit_instruct.evaluation.measures import Interval


@pytest.mark.parametrize(
    ("low", "high", "value", "expected"),
    [
        (0.1, 0.3, 0.0, True),
        (-0.3, -0.1, 0.0, False),
        (-0.1, 0.3, 0.0, None),
        (0.1, 0.3, 0.5, False),
        (0, 0.3, 0, None),
    ],
)
def test_a_claim_holds_if_its_interval_lies_above(low: float, high: float, value: float, expected: bool | None) -> None:
    interval = Interval(0.2, low, high)
    assert above(interval, value) is expected
    assert claim("it rises", interval, value) == {
        "claim": "it rises",
        "holds": expected,
        "figure": 0.2,
        "ci_low": low,
        "ci_high": high,
    }


def test_all_hold() -> None:
    assert all_hold([True, True]) is True
    assert all_hold([True, None]) is None
    assert all_hold([None, False, True]) is False


def test_an_interval_as_text() -> None:
    assert shown(Interval(0.254, -0.1, 0.4)) == "0.25 (-0.10 to 0.40)"
    assert shown(Interval(0.254, -0.1, 0.4), 1, signed=True) == "+0.3 (-0.1 to +0.4)"
