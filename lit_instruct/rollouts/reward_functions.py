"""Rewards from Python functions: imported by name, and their scores checked."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.prompting import prompt_text

TextScorer = Callable[[Sequence[Any], Sequence[str]], list[float]]
"""(prompts, responses) -> scores, for rewards that come from outside the shared base."""
Labeler = Callable[[list[tuple[str, str]]], list[float]]


def function_scorer(function: str, finite: bool = True) -> TextScorer:
    """Returns a Python function as a scorer of texts.

    Args:
        function: import path of a function list[(prompt, response)] -> list[float].
        finite: whether NaN and infinity are a mistake at once; the caller looks otherwise.

    Raises:
        UserError: it cannot be imported.
    """
    labeler = load_labeler(function)
    return lambda prompts, texts: label(
        labeler, [(prompt_text(prompt), text) for prompt, text in zip(prompts, texts, strict=True)], function, finite
    )


def load_labeler(import_path: str) -> Labeler:
    """Returns the Python function that an import path names.

    Args:
        import_path: such as `lit_instruct.evaluation.labelers.tone`; it takes a list of (prompt, response) and
            returns as many numbers, higher is better.

    Raises:
        UserError: there is no such function.
    """
    module_name, _, name = import_path.rpartition(".")
    try:
        labeler = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # whatever the user's module does when it is imported
        raise UserError(
            f"labeler {import_path}: cannot import it ({error}); give package.module.function on PYTHONPATH"
        ) from error
    if not callable(labeler):
        raise UserError(f"labeler {import_path}: it is not callable; give list[(prompt, response)] -> list[float]")
    return labeler


def label(labeler: Labeler, pairs: list[tuple[str, str]], name: str = "labeler", finite: bool = True) -> list[float]:
    """Returns a labeler's scores, checked: as many as pairs, each a number.

    Args:
        labeler: the function.
        pairs: prompts and responses.
        name: of the function, for the message.
        finite: whether each number must be finite.

    Raises:
        UserError: it raised an exception or returned something else; the message names the row.
    """
    try:
        scores = [float(score) for score in labeler(pairs)]
    except Exception as error:
        where = _row_that_breaks(labeler, pairs)
        raise UserError(f"{name}: it raised {type(error).__name__}: {error}{where}; mend the function") from error
    if len(scores) != len(pairs):
        raise UserError(f"{name}: it returned {len(scores)} scores for {len(pairs)} pairs; return one for each")
    for row, score in enumerate(scores):
        if finite and not math.isfinite(score):
            raise UserError(
                f"{name}: it returned {score} for row {row} ({pairs[row][1][:60]!r}); return finite numbers"
            )
    return scores


def _row_that_breaks(labeler: Labeler, pairs: list[tuple[str, str]]) -> str:
    """Says which row alone makes a function raise an exception; "" where only several together do."""
    for row, (prompt, response) in enumerate(pairs):
        try:
            [float(score) for score in labeler([(prompt, response)])]
        except Exception:
            return f" (row {row}: prompt {prompt[:60]!r}, response {response[:60]!r})"
    return ""
