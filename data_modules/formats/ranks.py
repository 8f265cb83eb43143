"""Scores and orders -> ranks: 1 is the best, equal ranks are ties; and margins between responses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from data_modules.formats.messages import kind
from lit_instruct.errors import DataError


def ranks_of_scores(scores: Sequence[Any], field: str) -> list[int]:
    """1 for the highest score: [0.5, 0.9, 0.5] -> [2, 1, 2].

    Args:
        scores: higher is better.
        field: its name, for the message.

    Raises:
        DataError: one is not a finite number.
    """
    return _dense([-score for score in _numbers(scores, field)])


def ranks_of_order(order: Sequence[Any], field: str) -> list[int]:
    """1 for the lowest number: [0, 3, 3] -> [1, 2, 2].

    Args:
        order: lower is better; may start anywhere.
        field: its name, for the message.

    Raises:
        DataError: one is not a finite number.
    """
    return _dense(_numbers(order, field))


def margin_of_each(margin: Any, ranks: Sequence[int]) -> list[float]:
    """Returns one number per response; the rewards of two responses should differ by the difference of their numbers.

    Args:
        margin: one number per response; for two responses also a single difference, as in TRL; None is 0.
        ranks: of the responses.

    Raises:
        DataError: it is something else.
    """
    if margin is None:
        return [0.0] * len(ranks)
    if not isinstance(margin, list) and len(ranks) == 2:
        margin = [margin if rank == min(ranks) else 0 for rank in ranks]
    if not isinstance(margin, list) or len(margin) != len(ranks):
        given = f"{len(margin)} numbers" if isinstance(margin, list) else kind(margin)
        raise DataError(f'field "margin" must be a list of {len(ranks)} numbers, not {given}; correct the row')
    try:
        return [float(number) for number in _numbers(margin, "margin")]
    except OverflowError:
        raise DataError('field "margin" has a number of too many digits; correct the row') from None


def _dense(values: Sequence[float]) -> list[int]:
    rank = {value: number for number, value in enumerate(sorted(set(values)), start=1)}
    return [rank[value] for value in values]


def _numbers(values: Sequence[Any], field: str) -> Sequence[float]:
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (isinstance(value, float) and not math.isfinite(value)):
            found = value if number else kind(value)
            raise DataError(f'field "{field}" must be a number, not {found}; correct the row')
    return values
