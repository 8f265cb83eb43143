"""Scoring functions as options: an import path, or in Python the function itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from lit_instruct.judging.reward_server import ADDRESSES, check_address

if TYPE_CHECKING:
    Function = str | Callable[..., Any]
else:  # on the command line and in YAML
    Function = str
"""An import path, or the function itself."""


def function_name(function: Function) -> str:
    """Returns an import path as it is, and of a function given in Python `module.name`, by which runs record it.

    An object that can be called has the name of its class; lambdas and functions inside functions have names with
    `<lambda>` and `<locals>`, which cannot be imported.
    """
    if isinstance(function, str):
        return function
    if isinstance(function, partial):
        return function_name(function.func)
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def check_function(given: Function | None, option: str) -> None:
    """Raises UserError if what an option names must not be recorded: an address with a password or a key in it."""
    if isinstance(given, str) and given.startswith(ADDRESSES):
        check_address(given, option)
