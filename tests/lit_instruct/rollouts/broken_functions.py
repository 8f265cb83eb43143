"""Functions that do what they must not."""

from __future__ import annotations

Pairs = list[tuple[str, str]]
NUMBER = 3


def length(pairs: Pairs) -> list[float]:
    """The one that works: how long a response is."""
    return [len(response) for _, response in pairs]


def prompt_length(pairs: Pairs) -> list[float]:
    """How long a prompt is."""
    return [len(prompt) for prompt, _ in pairs]


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


def not_on_zero(pairs: Pairs) -> list[float]:
    return [1 / (response != "a zero") for _, response in pairs]


def one_at_a_time(pairs: Pairs) -> list[float]:
    if len(pairs) > 1:
        raise MemoryError("too many")
    return [0.0]
