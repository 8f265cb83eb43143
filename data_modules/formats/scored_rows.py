"""Scored responses to one prompt, each in a row of its own as in HelpSteer2 -> one comparison."""

from __future__ import annotations

from typing import Any

from data_modules.formats.layout import MAX_GROUP, Fields, Layout, Record
from data_modules.formats.messages import from_json, prompt_of, reply_text, with_system
from data_modules.formats.ranks import ranks_of_scores
from lit_instruct.errors import DataError

SCORES = ("score", "rating", "reward", "overall_score", "helpfulness")
"""Fields of the score; of several, the first one counts."""


def _scored_rows(record: Record) -> Fields:
    rows: list[Record] = record["records"]
    if len(rows) == 1:
        raise DataError(
            "only one scored response to this prompt; a comparison needs at least 2, in rows next to each other"
        )
    if len(rows) > MAX_GROUP:
        raise DataError(f"more than {MAX_GROUP} scored responses to one prompt; remove some")
    shared = {name: value for name, value in rows[0].items() if all(row.get(name) == value for row in rows)}
    if any(row.get("system") != shared.get("system") for row in rows):
        raise DataError('responses to one prompt with several messages in field "system"; remove one of them')
    field = _score_field(rows[0])
    scores = [_number(row.get(str(field))) for row in rows]
    used = ("prompt", "response", "system", *SCORES)
    return [
        {name: value for name, value in shared.items() if name not in used}
        | {
            "prompt": with_system(prompt_of(record["prompt"]), shared.get("system")),
            "responses": [reply_text(row.get("response"), "response") for row in rows],
            "ranks": ranks_of_scores(scores, str(field)),
        }
    ]


def _score_field(record: Record) -> str | None:
    return next((name for name in SCORES if type(_number(record.get(name))) in (int, float)), None)


def _number(value: Any) -> Any:
    """The value; a cell of a CSV file as the number that it holds."""
    return from_json(value) if isinstance(value, str) else value


SCORED_ROWS = Layout(
    "scored-rows",
    ("prompt", "response"),
    _scored_rows,
    takes=("records", "system", *SCORES),
    fits=lambda record: _score_field(record) is not None,
    group="prompt",
)
