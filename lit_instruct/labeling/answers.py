"""What labelers answer: rankings, "cannot judge", skipped tasks, and answers that are taken back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from data_modules.formats.ranks import ranks_of_order
from lit_instruct.labeling.leases import Slot, fill, lease, release, slot_of
from lit_instruct.labeling.tasks import shown_order

Kind = Literal["ranking", "cannot_judge", "skip"]
QUALITY = range(1, 8)
"""Overall quality of a response, 7 the best (Table 3 of the paper)."""


class RefusedError(Exception):
    """An answer that cannot be taken; the message is for the labeler.

    Args:
        message: a sentence.
        conflict: whether the task is no longer the labeler's, so that the page should get the next one.
    """

    def __init__(self, message: str, conflict: bool = False) -> None:
        super().__init__(message)
        self.conflict = conflict


@dataclass(frozen=True)
class Answer:
    """What a labeler sends; lists follow the order in which the responses were shown."""

    slot: int
    key: str
    """Chosen by the page for each saving; the same key again is the same saving, repeated."""
    kind: Kind
    seconds: float
    """Spent on the task, while the page was visible."""
    ranks: Sequence[int] = ()
    """One per response, from 1, the best; equal ones are ties."""
    quality: Sequence[int | None] = ()
    """Of QUALITY, or None, one per response; empty for none."""
    flags: Sequence[Sequence[str]] = ()
    """Names of the flags that apply, for each response; empty for none."""
    comparisons: Sequence[tuple[int, int, int]] = ()
    """Two responses and which is better (-1 the first, 1 the second, 0 tied), in the order of answering."""
    reason: str = ""
    """Why the task cannot be judged."""


@dataclass(frozen=True)
class Rules:
    """What a store and its server allow."""

    seed: int = 0
    flags: Sequence[str] = field(default_factory=tuple)
    lease_seconds: float = 1800.0


def record(connection: sqlite3.Connection, labeler: int, answer: Answer, rules: Rules, now: float) -> int:
    """Adds the event of an answer and returns its number; a repeated key returns the number of the first.

    Args:
        connection: in a writing transaction.
        labeler: number of the labeler who answers.
        answer: of the page.
        rules: of the store.
        now: seconds since 1970.

    Raises:
        RefusedError: it is somebody else's task or key, was answered already, or its content is wrong.
    """
    if (known := _known(connection, answer.key, labeler, {answer.kind})) is not None:
        return known
    slot = _own_slot(connection, answer.slot, labeler)
    k = connection.execute("SELECT count(*) FROM responses WHERE task = ?", (slot.task,)).fetchone()[0]
    body = _body(answer, shown_order(rules.seed, labeler, slot.id, k), rules)
    event = add_event(connection, answer.key, answer.kind, labeler, slot, body, answer.seconds, now)
    if answer.kind == "skip":
        release(connection, slot.id)
    else:
        fill(connection, slot.id, labeler, event)
    return event


def take_back(connection: sqlite3.Connection, labeler: int, key: str, rules: Rules, now: float) -> int:
    """Takes the labeler's last answer back, leases its task to them again and returns the number of its slot.

    A task that the labeler has open meanwhile is released. A repeated key returns the same slot and changes nothing.

    Raises:
        RefusedError: there is nothing to take back, or somebody else has the task that was skipped.
    """
    if (known := _known(connection, key, labeler, {"undo"})) is not None:
        return connection.execute("SELECT slot FROM events WHERE id = ?", (known,)).fetchone()[0]
    last = connection.execute(
        "SELECT * FROM events e WHERE labeler = ? AND kind != 'undo'"
        " AND NOT EXISTS (SELECT 1 FROM events u WHERE u.undoes = e.id) ORDER BY id DESC LIMIT 1",
        (labeler,),
    ).fetchone()
    if last is None:
        raise RefusedError("There is nothing to take back.")
    slot = slot_of(connection, last["slot"])
    assert slot is not None
    if slot.labeler not in (None, labeler) or slot.answer not in (None, last["id"]):
        raise RefusedError("Another labeler has the task that you skipped; it cannot be taken back.")
    for (open_slot,) in connection.execute("SELECT id FROM slots WHERE labeler = ? AND answer IS NULL", (labeler,)):
        release(connection, open_slot)
    add_event(connection, key, "undo", labeler, slot, {}, None, now, undoes=last["id"])
    connection.execute("UPDATE slots SET answer = NULL WHERE id = ?", (slot.id,))
    return lease(connection, slot.id, labeler, now + rules.lease_seconds).id


def renew(connection: sqlite3.Connection, labeler: int, slot: int, rules: Rules, now: float) -> None:
    """Extends the lease of a task that the labeler has open.

    Raises:
        RefusedError: it is not theirs (any more).
    """
    lease(connection, _own_slot(connection, slot, labeler).id, labeler, now + rules.lease_seconds)


def last_body(connection: sqlite3.Connection, labeler: int, slot: int, order: Sequence[int]) -> dict[str, Any] | None:
    """Returns the answer that the labeler took back last on a slot; None without one.

    Args:
        connection: to the store.
        labeler: number of the labeler.
        slot: number of the slot.
        order: in which the responses are shown.
    """
    row = connection.execute(
        "SELECT e.body FROM events e JOIN events u ON u.undoes = e.id"
        " WHERE e.slot = ? AND e.labeler = ? ORDER BY u.id DESC LIMIT 1",
        (slot, labeler),
    ).fetchone()
    return None if row is None else _as_shown(json.loads(row["body"]), order)


def _known(connection: sqlite3.Connection, key: str, labeler: int, kinds: set[str]) -> int | None:
    row = connection.execute("SELECT id, labeler, kind FROM events WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    if row["labeler"] != labeler or row["kind"] not in kinds:
        raise RefusedError("This key belongs to another answer; load the page again.")
    return row["id"]


def _own_slot(connection: sqlite3.Connection, number: int, labeler: int) -> Slot:
    slot = slot_of(connection, number)
    if slot is None or slot.labeler != labeler:
        raise RefusedError("This task is not yours, or its time ended and another labeler got it.", conflict=True)
    if slot.answer is not None:
        raise RefusedError("You have saved this task already, perhaps in another tab.", conflict=True)
    return slot


def _body(answer: Answer, order: Sequence[int], rules: Rules) -> dict[str, Any]:
    """The content of the event: lists in the order of the store, and the order that was shown."""
    k = len(order)
    if answer.kind == "skip":
        return {"order": list(order)}
    if answer.kind == "cannot_judge":
        if not answer.reason.strip():
            raise RefusedError("Say in a few words why this cannot be judged.")
        return {"order": list(order), "reason": answer.reason.strip()}
    if len(answer.ranks) != k or any(rank not in range(1, k + 1) for rank in answer.ranks):
        raise RefusedError(f"Give each of the {k} responses a rank from 1 to {k}.")
    _check_metadata(answer, k, rules)
    ranks = ranks_of_order(answer.ranks, "ranks")
    _check_comparisons(answer, ranks)
    found: dict[str, Any] = {"order": list(order), "ranks": _unshuffled(ranks, order)}
    if any(one is not None for one in answer.quality):
        found["quality"] = _unshuffled(answer.quality, order)
    if any(answer.flags):
        found["flags"] = [sorted(flags, key=list(rules.flags).index) for flags in _unshuffled(answer.flags, order)]
    if answer.comparisons:
        found["comparisons"] = [[order[i], order[j], better] for i, j, better in answer.comparisons]
    return found


def _check_metadata(answer: Answer, k: int, rules: Rules) -> None:
    if (answer.quality and len(answer.quality) != k) or any(q is not None and q not in QUALITY for q in answer.quality):
        raise RefusedError(f"The overall quality is a number from {QUALITY[0]} to {QUALITY[-1]} for each response.")
    if answer.flags and len(answer.flags) != k:
        raise RefusedError(f"Give flags for each of the {k} responses.")
    unknown = sorted({flag for flags in answer.flags for flag in flags} - set(rules.flags))
    if unknown:
        raise RefusedError(f"There is no flag {unknown[0]!r:.80}; load the page again.")


def _check_comparisons(answer: Answer, ranks: Sequence[int]) -> None:
    for i, j, better in answer.comparisons:
        within = i in range(len(ranks)) and j in range(len(ranks)) and i != j
        if not within or better != (ranks[i] > ranks[j]) - (ranks[i] < ranks[j]):
            raise RefusedError("The comparisons do not give this ranking; load the page again.")


def _unshuffled(shown: Sequence[Any], order: Sequence[int]) -> list[Any]:
    """Values in the order of the store, from values in the order shown: order[i] is the response at place i."""
    found: list[Any] = [None] * len(order)
    for place, number in enumerate(order):
        found[number] = shown[place]
    return found


def _as_shown(body: Mapping[str, Any], order: Sequence[int]) -> dict[str, Any]:
    found = {name: [body[name][number] for number in order] for name in ("ranks", "quality", "flags") if name in body}
    if "comparisons" in body:
        place = {number: at for at, number in enumerate(order)}
        found["comparisons"] = [[place[i], place[j], better] for i, j, better in body["comparisons"]]
    return found | ({"reason": body["reason"]} if "reason" in body else {})


def add_event(
    connection: sqlite3.Connection,
    key: str,
    kind: str,
    labeler: int,
    slot: Slot,
    body: Mapping[str, Any],
    seconds: float | None,
    now: float,
    undoes: int | None = None,
) -> int:
    """Adds an event and returns its number.

    Args:
        connection: in a writing transaction.
        key: of the saving; no other event has it.
        kind: ranking, cannot_judge, skip or undo.
        labeler: number of the labeler.
        slot: that is answered.
        body: content of the answer, in the order of the store.
        seconds: spent on the task; None if unknown.
        now: seconds since 1970.
        undoes: event that this one takes back.
    """
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    event = connection.execute(
        "INSERT INTO events (key, kind, labeler, task, slot, undoes, body, seconds, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (key, kind, labeler, slot.task, slot.id, undoes, json.dumps(body), seconds, at),
    ).lastrowid
    assert event is not None
    return event
