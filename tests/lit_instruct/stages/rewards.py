"""Reward functions that tests name by import path."""

from __future__ import annotations

Pairs = list[tuple[str, str]]


def letters(pairs: Pairs) -> list[float]:
    """How many letters `a` to `m` a response has: easy to get more of."""
    return [float(sum("a" <= letter <= "m" for letter in response)) for _, response in pairs]


def constant(pairs: Pairs) -> list[float]:
    """Always 1."""
    return [1.0] * len(pairs)


def length_of_prompt(pairs: Pairs) -> list[float]:
    """What a value function can know before the first token."""
    return [len(prompt) / 10 for prompt, _ in pairs]


def raises(pairs: Pairs) -> list[float]:
    """Breaks."""
    raise KeyError("tone")


def not_a_number(pairs: Pairs) -> list[float]:
    """NaN for the third pair."""
    return [float("nan") if i == 2 else 0.0 for i in range(len(pairs))]


def too_few(pairs: Pairs) -> list[float]:
    """One score short."""
    return [0.0] * (len(pairs) - 1)
