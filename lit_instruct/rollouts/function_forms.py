"""The forms that a scoring function may have, found by its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompt, prompt_text

Columns = Mapping[str, Any]
"""Fields of a prompt's row by name."""
Call = Callable[[list[Prompt], list[str], list[Columns]], Any]
"""(prompts, responses, rows) -> what the function returned."""
FORMS = (
    "give function(pairs), function(prompts, responses, rows) or, as in TRL, function(prompts, completions, **columns)"
)


def call_of(function: Callable[..., Any], name: str) -> Call:
    """Returns a way to call a scoring function with prompts, responses and rows, whichever form it has.

    - function(pairs): one list of (prompt, response) texts.
    - function(prompts, responses, rows): three lists; a row is a dict with the columns of the prompt's row.
    - function(prompts, completions, **columns), as TRL's reward functions: called by keyword, with one list for each
      column that it takes; a prompt given as messages stays so, and its completion is a list of one message.

    In the first two forms a prompt is its text, of messages the last one of the user.

    Args:
        function: the function.
        name: the option and the function, for messages.

    Raises:
        UserError: it takes other arguments.
    """
    if inspect.iscoroutinefunction(function):
        raise UserError(f"{name}: it is asynchronous; {FORMS}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function that is written in C
        return lambda prompts, responses, _: function(_pairs(prompts, responses))
    if "completions" in signature.parameters:
        return _trl(function, signature.parameters, name)
    if not ("rows" in signature.parameters and _takes(signature, 3)) and _takes(signature, 1):
        return lambda prompts, responses, _: function(_pairs(prompts, responses))
    if _takes(signature, 3):
        return lambda prompts, responses, rows: function([prompt_text(p) for p in prompts], responses, rows)
    raise UserError(f"{name}: it takes {signature}; {FORMS}")


@contextmanager
def unchanged_torch(name: str) -> Iterator[None]:
    """Refuses code of the user that changes torch's defaults, in which the training would go on.

    Args:
        name: the option and the function, for messages.

    Raises:
        UserError: the default dtype or device is another one; it is set back.
    """
    import torch

    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    changed = ""
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()):  # set back at the end
            yield
    finally:
        if torch.get_default_dtype() != dtype:
            changed = f"dtype from {dtype} to {torch.get_default_dtype()}"
            torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            changed = f"device from {device} to {torch.get_default_device()}"
            torch.set_default_device(device)
    if changed:
        raise UserError(f"{name}: it changed torch's default {changed}; set it back in the function")


def _takes(signature: inspect.Signature, count: int) -> bool:
    """Whether `count` arguments by position are enough, and not too many."""
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _pairs(prompts: list[Prompt], responses: list[str]) -> list[tuple[str, str]]:
    return [(prompt_text(prompt), response) for prompt, response in zip(prompts, responses, strict=True)]


def _trl(function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter], name: str) -> Call:
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    needed = {
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }

    def call(prompts: list[Prompt], responses: list[str], rows: list[Columns]) -> Any:
        names = dict.fromkeys(column for row in rows for column in row)
        given: dict[str, list[Any]] = {column: [row.get(column) for row in rows] for column in names}
        given |= {"prompts": [*prompts], "completions": list(map(_completion, prompts, responses))}
        if missing := sorted(needed - given.keys()):
            has = ", ".join(names) or "none"
            raise UserError(f"{name}: it takes {', '.join(missing)}, and the data have no such column (others: {has})")
        return function(**(given if takes_any else {column: given[column] for column in given if column in parameters}))

    return call


def _completion(prompt: Prompt, response: str) -> Any:
    return response if isinstance(prompt, str) else [{"role": "assistant", "content": response}]
