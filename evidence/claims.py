"""From intervals to what a result says: whether a claim holds, and figures as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lit_instruct.evaluation.measures import Interval


def above(interval: Interval, value: float = 0.0) -> bool | None:
    """Returns True if an interval lies above a value, False if below, None if the value is in it."""
    return None if interval.ci_low <= value <= interval.ci_high else interval.ci_low > value


def all_hold(answers: Iterable[bool | None]) -> bool | None:
    """Returns True if all claims hold, False if one does not, else None."""
    known = list(answers)
    return False if False in known else None if None in known else True


def claim(text: str, interval: Interval, value: float = 0.0) -> dict[str, Any]:
    """Returns a claim of a `Result`: that a figure is above a value."""
    figures = {"figure": interval.mean, "ci_low": interval.ci_low, "ci_high": interval.ci_high}
    return {"claim": text, "holds": above(interval, value), **figures}


def shown(interval: Interval, digits: int = 2, signed: bool = False) -> str:
    """Returns an interval as text: 0.52 (0.40 to 0.64)."""
    sign = "+" if signed else ""
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in interval)
    return f"{mean} ({low} to {high})"
