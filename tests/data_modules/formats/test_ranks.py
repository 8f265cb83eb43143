"""Margins between responses, as literal lists."""

from __future__ import annotations

from typing import Any

import pytest

from data_modules.formats.ranks import margin_of_each
from lit_instruct.errors import DataError


@pytest.mark.parametrize(
    ("margin", "ranks", "expected"),
    [
        (None, [2, 1, 3], [0, 0, 0]),
        (0.5, [1, 2], [0.5, 0]),
        (2, [2, 1], [0, 2]),
        ([1, 2.5, 0], [2, 1, 3], [1, 2.5, 0]),
        ([3, -1], [1, 2], [3, -1]),
    ],
)
def test_margin_of_each(margin: Any, ranks: list[int], expected: list[float]) -> None:
    assert margin_of_each(margin, ranks) == expected


@pytest.mark.parametrize("margin", [0.5, "1", True, {}, [1, 2], [1, 2, "3"], [1, 2, float("nan")], [1, 2, 10**400]])
def test_wrong_margins(margin: Any) -> None:
    with pytest.raises(DataError, match=r'^field "margin" '):
        margin_of_each(margin, [1, 2, 3])
