"""Labelers that do what they must not."""

from __future__ import annotations

Pairs = list[tuple[str, str]]
NUMBER = 3


def length(pairs: Pairs) -> list[float]:
    """The one that works: how long a response is."""
    return [len(response) for _, response in pairs]


def too_few(pairs: Pairs) -> list[float]:
    return [0.0] * (len(pairs) - 1)


def not_a_number(pairs: Pairs) -> list[float]:
    return [0.0, float("nan"), *[0.0] * (len(pairs) - 2)]


def infinite(pairs: Pairs) -> list[float]:
    return [float("inf")] * len(pairs)


def raises(pairs: Pairs) -> list[float]:
    raise KeyError("missing")


def nothing(pairs: Pairs) -> None:
    return None


def words(pairs: Pairs) -> list[str]:
    return ["good"] * len(pairs)
