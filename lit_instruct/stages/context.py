"""Refuses rows that are longer than the model reads, before it is loaded."""

from __future__ import annotations

from typing import Any

from data_modules.reading.given import LEAVE_OUT, GivenRows
from lit_instruct.errors import UserError
from lit_instruct.models.checks import context_of
from lit_instruct.models.loading import Source, load_config


def check_context(source: Source, data: Any) -> None:
    """Refuses rows of prompt and response that are longer than the model's context.

    Models with learned positions would fail in the middle of the training, others would train on positions that they
    have never seen.

    Args:
        source: of the model.
        data: the DataModule; one without `max_length` and `longest` is not checked.

    Raises:
        UserError: naming the longest row and the model's limit.
    """
    context, limit = context_of(load_config(source)), getattr(data, "max_length", None)
    if context is None or limit is None or limit <= context:
        return
    for option, rows in (("path", "longest"), ("demonstrations_path", "longest_demonstration")):
        longest, path = getattr(data, rows, 0), getattr(data, option, None)
        if longest > context:
            advice = f"give --data.max_length={context} with --data.on_long=drop"
            named, advice = (path, LEAVE_OUT) if isinstance(path, GivenRows) else (f"--data.{option}", advice)
            raise UserError(
                f"{named}: its longest row has {longest} tokens, more than the {context} tokens that {source.name} "
                f"(--model.base) reads; {advice}"
            )
