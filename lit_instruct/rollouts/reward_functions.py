"""Scores from Python functions: imported by name, and checked."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.prompting import prompt_text

TextScorer = Callable[[Sequence[Any], Sequence[str]], list[float]]
"""(prompts, responses) -> scores, for rewards that come from outside the shared base."""
Pairs = list[tuple[str, str]]
"""(prompt, response) texts."""
ScoringFunction = Callable[[Pairs], list[float]]
"""One score per pair, higher is better."""


def function_scorer(function: str, finite: bool = True, option: str = "--model.reward.function") -> TextScorer:
    """Returns a Python function as a scorer of prompts and texts; arguments and errors as in `scoring_function`."""
    score = scoring_function(function, option, finite)
    return lambda prompts, texts: score([(prompt_text(p), text) for p, text in zip(prompts, texts, strict=True)])


def scoring_function(import_path: str, option: str, finite: bool = True) -> ScoringFunction:
    """Returns the Python function that an import path names, with its scores checked.

    The returned function raises a UserError where the user's own raises an exception or does not return one number for
    each pair; the message names the option, the function and the row.

    Args:
        import_path: such as `lit_instruct.evaluation.labelers.tone`, of list[(prompt, response)] -> list[float].
        option: by which the user named the function, for messages.
        finite: whether NaN and infinity are errors; otherwise the caller has to check for them.

    Raises:
        UserError: there is no such function.
    """
    name = f"{option} {import_path}"
    module, _, attribute = import_path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may raise anything when it is imported
        raise UserError(f"{name}: cannot import it ({error}); give package.module.function on PYTHONPATH") from error
    if not callable(function):
        raise UserError(f"{name}: it is not callable; give a function list[(prompt, response)] -> list[float]")
    return partial(_checked_scores, function, name, finite)


def _checked_scores(function: ScoringFunction, name: str, finite: bool, pairs: Pairs) -> list[float]:
    try:
        scores = [float(score) for score in function(pairs)]
    except Exception as error:
        where = _failing_row(function, pairs)
        raise UserError(f"{name}: it raised {type(error).__name__}: {error}{where}; fix the function") from error
    if len(scores) != len(pairs):
        raise UserError(f"{name}: it returned {len(scores)} scores for {len(pairs)} pairs; return one for each")
    for row, (score, (_, response)) in enumerate(zip(scores, pairs, strict=True)):
        if finite and not math.isfinite(score):
            raise UserError(f"{name}: it returned {score} for row {row} ({response[:60]!r}); return finite numbers")
    return scores


def _failing_row(function: ScoringFunction, pairs: Pairs) -> str:
    """Returns text that names the first row that raises an exception on its own; "" where only several together do."""
    for row, (prompt, response) in enumerate(pairs):
        try:
            [float(score) for score in function([(prompt, response)])]
        except Exception:
            return f" (row {row}: prompt {prompt[:60]!r}, response {response[:60]!r})"
    return ""
