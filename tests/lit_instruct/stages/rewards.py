"""Reward functions that tests name by import path."""

from __future__ import annotations

Pairs = list[tuple[str, str]]


def letters(pairs: Pairs) -> list[float]:
    """The number of letters `a` to `m` in a response, which is easy to increase."""
    return [float(sum("a" <= letter <= "m" for letter in response)) for _, response in pairs]


def constant(pairs: Pairs) -> list[float]:
    """Always 1."""
    return [1.0] * len(pairs)


def length_of_prompt(pairs: Pairs) -> list[float]:
    """What a value function can know before the first token."""
    return [len(prompt) / 10 for prompt, _ in pairs]


def raises(pairs: Pairs) -> list[float]:
    """Raises an error."""
    raise KeyError("tone")


def not_a_number(pairs: Pairs) -> list[float]:
    """NaN for the third pair."""
    return [float("nan") if i == 2 else 0.0 for i in range(len(pairs))]


def too_few(pairs: Pairs) -> list[float]:
    """Returns one score too few."""
    return [0.0] * (len(pairs) - 1)


def few_letters(pairs: Pairs) -> list[float]:
    """The opposite of `letters`: a labeler who disagrees with the reward."""
    return [-count for count in letters(pairs)]


def length(pairs: Pairs) -> list[float]:
    """Characters of the response."""
    return [float(len(response)) for _, response in pairs]


def letters_and_prompt(pairs: Pairs) -> list[float]:
    """Something for the policy to learn and something for the value function."""
    return [a + 3 * b for a, b in zip(letters(pairs), length_of_prompt(pairs), strict=True)]


def not_a_number_for_the_ninth(pairs: Pairs) -> list[float]:
    """`letters`, but NaN for the prompt that ends with 9."""
    return [float("nan") if prompt.endswith(" 9") else s for (prompt, _), s in zip(pairs, letters(pairs), strict=True)]


def raises_for_the_ninth(pairs: Pairs) -> list[float]:
    """`letters`, but raises an error at the prompt that ends with 9."""
    if any(prompt.endswith(" 9") for prompt, _ in pairs):
        raise ValueError("nine")
    return letters(pairs)
