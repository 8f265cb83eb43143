"""Bounds of numeric options."""

from __future__ import annotations

from lit_instruct.errors import UserError


def at_least(least: int, group: str, options: object, *names: str) -> None:
    """Refuses options below a bound; null passes.

    Args:
        least: the bound.
        group: name of the options on the command line, such as "kl".
        options: the options.
        names: which of them to check.

    Raises:
        UserError: names the option.
    """
    for name in names:
        if (value := getattr(options, name)) is not None and value < least:
            raise UserError(f"--model.{group}.{name}={value}: must be at least {least}")


def above_zero(group: str, options: object, *names: str) -> None:
    """Refuses options that are not above 0, with the arguments of `at_least`."""
    for name in names:
        if (value := getattr(options, name)) is not None and value <= 0:
            raise UserError(f"--model.{group}.{name}={value}: must be above 0")
