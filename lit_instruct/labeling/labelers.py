"""Labelers of a store: their names, and their own progress as the page shows it."""

from __future__ import annotations

import json
import re
import sqlite3
import unicodedata
from datetime import UTC, datetime
from statistics import median
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.judging.agreement import agreement

LONGEST_NAME = 40
_NAME = re.compile(r"[^\W_](?:[\w .'@+-]*[\w.])?")


def labeler_name(text: str) -> str:
    """Returns a name without surrounding white space, in one of the ways in which Unicode can write it (NFC).

    Raises:
        UserError: it is empty, too long, or has characters that would make two names look alike or break a file.
    """
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    if not name:
        raise UserError("a labeler needs a name; give one of letters and digits")
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise UserError(
            f"the name {name[:LONGEST_NAME]!r} cannot be used; give at most {LONGEST_NAME} letters, digits, spaces "
            "and . ' @ + - _, the first a letter or a digit"
        )
    return name


def labeler_of(connection: sqlite3.Connection, name: str) -> int:
    """Returns the number of the labeler of this name, who is added if new.

    Args:
        connection: in a writing transaction.
        name: from `labeler_name`.
    """
    row = connection.execute("SELECT id FROM labelers WHERE name = ?", (name,)).fetchone()
    if row is not None:
        return row[0]
    since = datetime.now(UTC).isoformat(timespec="seconds")
    number = connection.execute("INSERT INTO labelers (name, since) VALUES (?, ?)", (name, since)).lastrowid
    assert number is not None
    return number


def progress_of(connection: sqlite3.Connection, labeler: int) -> dict[str, Any]:
    """Returns what the page says on a labeler's own work and on the whole.

    The keys are labeler (the name), done (tasks answered), median_seconds (per task), self_agreement with self_pairs
    (on tasks that came twice; None without any), all_done and all_wanted (rankings of all labelers).
    """
    seconds = [
        row[0]
        for row in connection.execute(
            "SELECT e.seconds FROM slots s JOIN events e ON e.id = s.answer WHERE s.labeler = ?", (labeler,)
        )
    ]
    twice = agreement(
        (json.loads(one)["ranks"], json.loads(other)["ranks"])
        for one, other in connection.execute(
            "SELECT a.body, b.body FROM slots s JOIN slots f ON f.id = s.repeats JOIN events a ON a.id = f.answer"
            " JOIN events b ON b.id = s.answer WHERE s.repeats IS NOT NULL AND s.labeler = ? AND f.labeler = ?"
            " AND a.kind = 'ranking' AND b.kind = 'ranking'",
            (labeler, labeler),
        )
    )
    done, wanted = connection.execute("SELECT count(answer), count(*) FROM slots").fetchone()
    timed = [one for one in seconds if one is not None]
    return {
        "labeler": connection.execute("SELECT name FROM labelers WHERE id = ?", (labeler,)).fetchone()[0],
        "done": len(seconds),
        "median_seconds": round(median(timed), 1) if timed else None,
        "self_agreement": None if not twice.pairs else round(twice.share, 3),
        "self_pairs": twice.pairs,
        "all_done": done,
        "all_wanted": wanted,
    }
