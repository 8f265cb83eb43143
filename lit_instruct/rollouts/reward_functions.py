"""Scores from what an option names: a Python function, called in the form that it takes, or a model; checked."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Any

from lit_instruct.checkout import hidden_package
from lit_instruct.errors import Interrupted, UserError
from lit_instruct.judging.judge import JUDGE, Judge
from lit_instruct.judging.reward_server import ADDRESSES, RewardServer
from lit_instruct.rollouts.classifiers import SCHEME, classifier_named
from lit_instruct.rollouts.function_forms import FORMS, Call, Columns, TextScorer, call_of, unchanged_process
from lit_instruct.rollouts.function_names import Function, check_function, function_name
from lit_instruct.rollouts.text_reward import REWARD, reward_model_call


def function_scorer(given: Function, finite: bool = True, option: str = "--model.reward.function") -> TextScorer:
    """Returns a Python function, or what a text names, as a scorer with its scores checked.

    The scorer raises a UserError where the function raises an exception, exits, changes settings of torch or does not
    return one number for each response; the message names the option, the function and the row. The function gets
    copies: it may change its arguments.

    Args:
        given: the function, or its import path such as `lit_instruct.evaluation.labelers.tone`; the forms of a
            function are those of `call_of`. `classifier:NAME#LABEL` names a `Classifier`, `reward:NAME` a reward
            model, `judge:FILE` a `Judge` that rates, and an http address a `RewardServer`.
        finite: whether NaN and infinity are errors; otherwise the caller has to check for them.
        option: by which the user named the function, for messages.

    Raises:
        UserError: there is no such function, or it takes other arguments.
    """
    check_function(given, option)
    name = f"{option} {function_name(given)}"
    if isinstance(given, str) and (call := _model_call(given, name)) is not None:
        return partial(_checked_scores, call, name, finite)
    function = _imported(given, name) if isinstance(given, str) else given
    if not callable(function):
        raise UserError(f"{name}: it is not callable; {FORMS}")
    return partial(_checked_scores, call_of(function, name), name, finite)


def _model_call(given: str, name: str) -> Call | None:
    """What a text names that is no function of Python; None if it is one."""
    if given.startswith(REWARD):
        return reward_model_call(given.removeprefix(REWARD), name)
    if given.startswith(JUDGE):
        judge = Judge(given.removeprefix(JUDGE), name)
        return lambda prompts, responses, _: judge.rate(prompts, responses)
    return RewardServer(given, name) if given.startswith(ADDRESSES) else None


def _imported(path: str, name: str) -> Any:
    module, _, attribute = path.rpartition(".")
    if "<" in path or module == "__main__":
        raise UserError(
            f"{name}: it was given in Python and cannot be imported; give the function again in Python, or move it to "
            "a module and give package.module.function"
        )
    try:
        with unchanged_process(name):
            if path.startswith(SCHEME):
                return classifier_named(path)
            return getattr(importlib.import_module(module), attribute)
    except (UserError, KeyboardInterrupt, Interrupted):
        raise
    except BaseException as error:  # the user's module may raise anything when it is imported
        raise UserError(
            f"{name}: cannot import it ({_in_one_line(error)}); give package.module.function, in the "
            f"current folder or on PYTHONPATH{hidden_package(path)}"
        ) from error


def _checked_scores(
    call: Call, name: str, finite: bool, prompts: Sequence[Any], responses: Sequence[str], rows: Sequence[Columns]
) -> list[float]:
    try:
        with unchanged_process(name):
            values = _called(call, prompts, responses, rows)
    except (UserError, KeyboardInterrupt, Interrupted):
        raise
    except BaseException as error:
        where = _failing_row(call, name, prompts, responses, rows)
        raise UserError(
            f"{name}: it raised {type(error).__name__}: {_in_one_line(error)}{where}; fix the function"
        ) from error
    if not isinstance(values, list):
        raise UserError(f"{name}: it returned {_shown(values)}; return a list of one number per response")
    if len(values) != len(responses):
        raise UserError(f"{name}: it returned {len(values)} scores for {len(responses)} responses; return one for each")
    scores = []
    for row, (value, response) in enumerate(zip(values, responses, strict=True)):
        score = _number(value)
        if score is None or (finite and not math.isfinite(score)):
            wanted = "numbers" if score is None else "finite numbers"
            raise UserError(f"{name}: it returned {_shown(value)} for row {row} ({response[:60]!r}); return {wanted}")
        scores.append(score)
    return scores


def _called(call: Call, prompts: Sequence[Any], responses: Sequence[str], rows: Sequence[Columns]) -> Any:
    """Returns the scores as a list; anything that is no sequence of scores, such as a dict, as it is."""
    given = call(copy.deepcopy([*prompts]), [*responses], copy.deepcopy([*rows]))
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping | Set):
        return list(given)
    return given


def _number(value: Any) -> float | None:
    """A score as float; None if it is no number."""
    try:
        value = value.detach() if hasattr(value, "detach") else value  # a tensor with gradient would warn
        return None if isinstance(value, str | bytes) else float(value)
    except Exception:  # the value's own conversion may raise anything
        return None


def _failing_row(
    call: Call, name: str, prompts: Sequence[Any], responses: Sequence[str], rows: Sequence[Columns]
) -> str:
    """Returns text that names the first row that raises an exception on its own; "" where only several together do."""
    for row, (prompt, response, columns) in enumerate(zip(prompts, responses, rows, strict=True)):
        try:
            with unchanged_process(name):
                _called(call, [prompt], [response], [columns])
        except (KeyboardInterrupt, Interrupted):
            raise
        except BaseException:
            return f" (row {row}: prompt {_shown(prompt)}, response {_shown(response)})"
    return ""


def _shown(value: Any) -> str:
    """The beginning of a value in one line."""
    if isinstance(value, str):
        return repr(value[:60])
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
