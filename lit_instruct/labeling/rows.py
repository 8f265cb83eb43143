"""Tasks from files: rows that already have responses, in any layout of ranked comparisons, with or without ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_modules.formats import COMPARISON_LAYOUTS
from data_modules.formats.layout import Fields, Layout, Record
from data_modules.formats.messages import check_text, prompt_of
from data_modules.rows import PromptRow, RankedComparison, Row, stream_rows
from lit_instruct.errors import DataError
from lit_instruct.labeling.tasks import MOST_RESPONSES, Task, Written, distinct

OF_A_RANKING = ("scores", "margin", "labeler", "quality", "flags", "seconds")
"""Fields of a comparison that say how somebody ranked it; a new ranking has its own."""


def _unranked(record: Record) -> Fields:
    return [{"prompt": prompt_of(record["prompt"]), "responses": record["responses"]}]


@dataclass
class AnsweredPrompt(Row):
    """A prompt with responses; ranks, if there are any, are left in `ranks`."""

    layouts = (*COMPARISON_LAYOUTS, Layout("responses", ("prompt", "responses"), _unranked))
    responses: list[str] = field(default_factory=list)
    ranks: list[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.responses, list):
            raise DataError('field "responses" must be a list; correct the row')
        if len(self.responses) > MOST_RESPONSES:
            raise DataError(f"{len(self.responses)} responses; a task has {MOST_RESPONSES} at most")
        for number, response in enumerate(self.responses, start=1):
            check_text(response, f'response {number} of field "responses"')


def answered_prompts(path: str, limit: int | None, fields: dict[str, str] | None) -> Iterator[AnsweredPrompt]:
    """Yields the rows of a file of responses.

    Raises:
        DataError: a row or a file is wrong.
    """
    for number, row in enumerate(stream_rows(path, AnsweredPrompt, fields=fields)):
        if limit is not None and number >= limit:
            return
        yield row


def task_of(row: AnsweredPrompt | RankedComparison) -> Task | None:
    """Returns a task from a row with responses; None if fewer than two differ.

    Fields `runs` and `versions` of the row, as `rank export` writes them, say who wrote the responses.
    """
    k = len(row.responses)
    runs, versions = (_per_response(row.extra.get(name), k) for name in ("runs", "versions"))
    written = distinct(map(Written, row.responses, runs, versions))
    left = {name: value for name, value in row.extra.items() if name not in (*OF_A_RANKING, "runs", "versions")}
    return Task(row.prompt, written, left) if len(written) >= 2 else None


def sampled_task(row: PromptRow, texts: Sequence[str], run: str, version: str | None) -> Task | None:
    """Returns a task from a prompt and the responses that a policy gave; None if fewer than two differ."""
    written = distinct(Written(text, run, version) for text in texts)
    columns = row.columns()
    return Task(row.prompt, written, columns) if len(written) >= 2 else None


def _per_response(values: Any, k: int) -> list[Any]:
    return values if isinstance(values, list) and len(values) == k else [None] * k
