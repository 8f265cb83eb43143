"""Rankings that were made elsewhere, as answers of labelers in a store."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from data_modules.formats.ranks import ranks_of_order
from data_modules.rows import RankedComparison, stream_rows
from lit_instruct.errors import DataError, UserError
from lit_instruct.labeling.answers import QUALITY, add_event
from lit_instruct.labeling.exports import as_text
from lit_instruct.labeling.labelers import labeler_name, labeler_of
from lit_instruct.labeling.leases import Slot, fill, slot_of
from lit_instruct.labeling.rows import task_of
from lit_instruct.labeling.tasks import MOST_RESPONSES, Task, add_task, columns_text
from lit_instruct.prompting import Prompt

OPEN = """
SELECT s.id FROM slots s
WHERE s.task = :task AND s.answer IS NULL AND s.repeats IS NULL AND (s.labeler = :labeler OR (
  (s.labeler IS NULL OR s.leased_until < :now) AND NOT EXISTS (SELECT 1 FROM slots r WHERE r.repeats = s.id)))
ORDER BY s.labeler IS :labeler DESC, s.id LIMIT 1
"""
"""A slot that an import may answer: the labeler's own, or one that nobody has and that nobody ranks twice."""


@dataclass(frozen=True)
class Given:
    """One labeler's ranking of one task; lists follow the order of the task's responses."""

    labeler: str
    task: Task
    ranks: list[int]
    """1 is the best, equal ranks are ties."""
    lists: dict[str, list[Any]]
    """Further values of each response: quality, flags, scores and margin, if the row has them."""
    seconds: float | None


Counts = Counter[Literal["rankings", "tasks", "known", "different"]]
"""Rankings and tasks that were added; rankings that were there; those whose labeler had answered differently."""


def given_rankings(path: str, fields: dict[str, str] | None, labeler: str | None) -> tuple[list[Given], int]:
    """Returns the rankings of a file, and the number of rows left out because fewer than two responses differ.

    Args:
        path: file in any layout of ranked comparisons.
        fields: field of the layout -> its name in the file.
        labeler: who made the rankings of rows that name nobody.

    Raises:
        DataError: a row or a file is wrong.
    """
    found = [_given(row, labeler) for row in stream_rows(path, RankedComparison, fields=fields)]
    kept = [one for one in found if one is not None]
    if not kept:
        raise DataError(f"{path}: no row has two different responses; give a file of rankings")
    return kept, len(found) - len(kept)


def add_rankings(connection: sqlite3.Connection, found: Iterable[Given], now: float) -> Counts:
    """Adds rankings, and tasks that the store does not have; a labeler's first answer to a task stays.

    A task is one that the store has if its prompt and the texts of its responses are the same, in any order.

    Args:
        connection: in a writing transaction.
        found: rankings in the order in which they are saved.
        now: seconds since 1970.
    """
    counts: Counts = Counter()
    tasks = _known_tasks(connection)
    for one in found:
        keys = _keys(one.task.prompt, [written.text for written in one.task.responses])
        number = next((tasks[key] for key in keys if key in tasks), None)
        if number is None:
            number = add_task(connection, one.task)
            counts["tasks"] += 1
            for key in keys:
                tasks.setdefault(key, number)
        counts[_add_ranking(connection, number, one, now)] += 1
    return counts


def _given(row: RankedComparison, labeler: str | None) -> Given | None:
    try:
        return _checked(row, labeler)
    except UserError as error:
        raise DataError(f"{row.where}: {error}") from None


def _checked(row: RankedComparison, labeler: str | None) -> Given | None:
    k = len(row.responses)
    if k > MOST_RESPONSES:
        raise DataError(f"{k} responses; a task has {MOST_RESPONSES} at most")
    name = row.extra.get("labeler")
    name = str(name) if type(name) is int else name
    if name is None and labeler is None:
        raise DataError("the row does not say who ranked it; name the labeler with --labeler")
    if name is not None and not isinstance(name, str):
        raise DataError('field "labeler" must be a name; correct the row')
    lists = {"quality": _quality(row, k), "flags": _flags(row, k), "margin": row.margin if any(row.margin) else None}
    scores = row.extra.get("scores")
    if isinstance(scores, list) and len(scores) == k:
        lists["scores"] = scores
    seconds, name = _seconds(row), labeler_name(name if name is not None else str(labeler))
    task = task_of(row)
    if task is None:
        return None
    places = [row.responses.index(one.text) for one in task.responses]
    ranks = ranks_of_order([row.ranks[place] for place in places], "ranks")
    kept = {name: [values[place] for place in places] for name, values in lists.items() if values is not None}
    return Given(name, task, ranks, kept, seconds)


def _quality(row: RankedComparison, k: int) -> list[int | None] | None:
    given = row.extra.get("quality")
    if given is None:
        return None
    fits = isinstance(given, list) and len(given) == k
    if not fits or any(one is not None and (type(one) is not int or one not in QUALITY) for one in given):
        raise DataError(
            f'field "quality" must have a whole number from {QUALITY[0]} to {QUALITY[-1]} or null for each of the {k} '
            "responses; correct the row"
        )
    return given


def _flags(row: RankedComparison, k: int) -> list[list[str]] | None:
    given = row.extra.get("flags")
    if given is None:
        return None
    lists = isinstance(given, list) and len(given) == k and all(isinstance(flags, list) for flags in given)
    if not lists or not all(isinstance(flag, str) for flags in given for flag in flags):
        raise DataError(f'field "flags" must have a list of names for each of the {k} responses; correct the row')
    return given


def _seconds(row: RankedComparison) -> float | None:
    given = row.extra.get("seconds")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 1e9:
        raise DataError('field "seconds" must be a number from 0; correct the row')
    return float(given)


def _known_tasks(connection: sqlite3.Connection) -> dict[str, int]:
    """Key of a prompt with its responses -> number of the task."""
    texts: dict[int, list[str]] = {}
    for task, text in connection.execute("SELECT task, text FROM responses"):
        texts.setdefault(task, []).append(text)
    found: dict[str, int] = {}
    for number, prompt in connection.execute("SELECT id, prompt FROM tasks ORDER BY id"):
        for key in _keys(json.loads(prompt), texts[number]):
            found.setdefault(key, number)
    return found


def _keys(prompt: Prompt, texts: Sequence[str]) -> list[str]:
    """Two keys: of the messages, and of the text as which other programs show a conversation."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [_digest([shown, sorted(texts)]) for shown in (messages, as_text(prompt))]


def _add_ranking(
    connection: sqlite3.Connection, task: int, one: Given, now: float
) -> Literal["rankings", "known", "different"]:
    body = _body(connection, task, one)
    labeler = labeler_of(connection, one.labeler)
    answers = connection.execute(
        "SELECT e.kind, e.body FROM slots s JOIN events e ON e.id = s.answer WHERE s.task = ? AND s.labeler = ?",
        (task, labeler),
    ).fetchall()
    if answers:
        same = any(kind == "ranking" and json.loads(text)["ranks"] == body["ranks"] for kind, text in answers)
        return "known" if same else "different"
    key = f"import:{_digest([task, labeler, body['ranks']])}"
    if connection.execute("SELECT 1 FROM events WHERE key = ?", (key,)).fetchone():
        return "known"  # the labeler has taken it back
    slot = _slot(connection, task, labeler, now)
    event = add_event(connection, key, "ranking", labeler, slot, body, one.seconds, now)
    fill(connection, slot.id, labeler, event)
    return "rankings"


def _slot(connection: sqlite3.Connection, task: int, labeler: int, now: float) -> Slot:
    found = connection.execute(OPEN, {"task": task, "labeler": labeler, "now": now}).fetchone()
    if found is None:
        connection.execute("INSERT INTO slots (task) VALUES (?)", (task,))
        found = connection.execute("SELECT last_insert_rowid()").fetchone()
    slot = slot_of(connection, found[0])
    assert slot is not None
    return slot


def _body(connection: sqlite3.Connection, task: int, one: Given) -> dict[str, Any]:
    """The content of the event: lists in the order of the store; there is no order in which it was shown."""
    places = {written.text: place for place, written in enumerate(one.task.responses)}
    texts = connection.execute("SELECT text FROM responses WHERE task = ? ORDER BY number", (task,))
    order = [places[row[0]] for row in texts]
    lists = {name: [values[place] for place in order] for name, values in one.lists.items()}
    body: dict[str, Any] = {"ranks": [one.ranks[place] for place in order]}
    for name in lists.keys() & {"quality", "flags"}:
        body[name] = lists.pop(name)
    more = _other_columns(connection, task, one.task) | lists
    if more:
        body["more"] = more
    return body


def _other_columns(connection: sqlite3.Connection, number: int, task: Task) -> dict[str, Any]:
    """Fields of the row that are not those of the task, such as the date of this ranking."""
    known = json.loads(connection.execute("SELECT columns FROM tasks WHERE id = ?", (number,)).fetchone()[0])
    given = json.loads(columns_text(task))
    return {name: value for name, value in given.items() if name not in known or known[name] != value}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
