"""The forms that a scoring function may have, found by its signature."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompt, prompt_text

Columns = Mapping[str, Any]
"""Fields of a prompt's row by name."""
Call = Callable[[list[Prompt], list[str], list[Columns]], Any]
"""(prompts, responses, rows) -> what the function returned."""
TextScorer = Callable[[Sequence[Any], Sequence[str], Sequence[Columns]], list[float]]
"""(prompts, responses, further columns of each prompt's row) -> one score per response, higher is better; for rewards
that come from outside the shared base."""
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
        signature = inspect.signature(getattr(function, "forward", function))  # of an nn.Module
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
def unchanged_process(name: str) -> Iterator[None]:
    """Refuses code of the user that changes settings of the process, in which the training would go on.

    Torch's random state, gradient mode and number of threads are set back without a word.

    Args:
        name: the option and the function, for messages.

    Raises:
        UserError: a default of torch or the working directory is another one; it is set back.
    """
    import torch

    settings: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
        "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "torch's default device": (torch.get_default_device, torch.set_default_device),
        "torch's matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        "torch's deterministic mode": (
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
        ),
        "the working directory": (os.getcwd, os.chdir),
    }
    before, changed = {setting: read() for setting, (read, _) in settings.items()}, ""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    on_device = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()):  # set back at the end
            yield
    finally:
        for setting, (read, write) in settings.items():
            if (now := read()) != before[setting]:
                changed = f"{setting} from {before[setting]} to {now}"
                write(before[setting])
        torch.set_rng_state(state)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
    if changed:
        raise UserError(f"{name}: it changed {changed}; set it back in the function")


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
