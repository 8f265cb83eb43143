"""Which task a labeler gets next. A task is leased for a time; when that ends without an answer, others may get it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

REPEAT_AFTER = 10
"""Answers of a labeler before a task comes a second time; sooner only if nothing else is open."""
CURRENT = "SELECT id FROM slots WHERE labeler = :labeler AND answer IS NULL ORDER BY leased_until DESC, id LIMIT 1"
REPEATED = """
SELECT s.id FROM slots s JOIN slots first ON first.id = s.repeats JOIN events e ON e.id = first.answer
WHERE s.repeats IS NOT NULL AND s.answer IS NULL AND first.labeler = :labeler AND e.kind = 'ranking'
  AND (SELECT count(*) FROM events later WHERE later.labeler = :labeler AND later.id > e.id) >= :after
  AND NOT EXISTS (
    SELECT 1 FROM events k WHERE k.task = s.task AND k.labeler = :labeler AND k.kind = 'skip' AND k.slot = s.id
      AND NOT EXISTS (SELECT 1 FROM events u WHERE u.undoes = k.id))
ORDER BY s.id LIMIT 1
"""
OPEN = """
SELECT s.id FROM slots s
WHERE s.answer IS NULL AND s.repeats IS NULL AND (s.labeler IS NULL OR s.leased_until < :now)
  AND NOT EXISTS (SELECT 1 FROM slots o WHERE o.task = s.task AND o.labeler = :labeler)
  AND NOT EXISTS (
    SELECT 1 FROM events k WHERE k.task = s.task AND k.labeler = :labeler AND k.kind = 'skip'
      AND NOT EXISTS (SELECT 1 FROM events u WHERE u.undoes = k.id))
ORDER BY s.id LIMIT 1
"""


@dataclass(frozen=True)
class Slot:
    """A place for one ranking of a task by one labeler."""

    id: int
    task: int
    labeler: int | None
    answer: int | None
    """Event that counts; None while it is open."""


def lease_next(connection: sqlite3.Connection, labeler: int, now: float, seconds: float) -> Slot | None:
    """Leases the labeler's current slot again, or the next one that they may answer; None if none is left.

    All tabs of a labeler, and a page that is loaded again, so get the same task. A labeler never gets a task twice but
    where the store asks for it, and never one that they have skipped.

    Args:
        connection: in a writing transaction.
        labeler: number of the labeler.
        now: seconds since 1970.
        seconds: length of the lease.
    """
    for query, after in ((CURRENT, 0), (REPEATED, REPEAT_AFTER), (OPEN, 0), (REPEATED, 0)):
        found = connection.execute(query, {"labeler": labeler, "now": now, "after": after}).fetchone()
        if found is not None:
            return lease(connection, found[0], labeler, now + seconds)
    return None


def lease(connection: sqlite3.Connection, slot: int, labeler: int, until: float) -> Slot:
    """Gives a slot to a labeler until a time, and returns it."""
    connection.execute("UPDATE slots SET labeler = ?, leased_until = ? WHERE id = ?", (labeler, until, slot))
    found = slot_of(connection, slot)
    assert found is not None
    return found


def release(connection: sqlite3.Connection, slot: int) -> None:
    """Takes an unanswered slot back, for anybody."""
    connection.execute("UPDATE slots SET labeler = NULL, leased_until = NULL WHERE id = ? AND answer IS NULL", (slot,))


def fill(connection: sqlite3.Connection, slot: int, labeler: int, event: int) -> None:
    """Answers a slot by an event of a labeler."""
    connection.execute(
        "UPDATE slots SET labeler = ?, answer = ?, leased_until = NULL WHERE id = ?", (labeler, event, slot)
    )


def slot_of(connection: sqlite3.Connection, slot: int) -> Slot | None:
    """Returns a slot; None if there is none of this number."""
    row = connection.execute("SELECT id, task, labeler, answer FROM slots WHERE id = ?", (slot,)).fetchone()
    return None if row is None else Slot(*row)
