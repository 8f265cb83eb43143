"""How far a store is: tasks, rankings, and each labeler."""

from __future__ import annotations

from statistics import median
from typing import Any

from lit_instruct.labeling.store import Store

COUNTS = "SELECT count(*) FROM slots s LEFT JOIN events e ON e.id = s.answer WHERE "


def status(store: Store, now: float) -> dict[str, Any]:
    """Returns counts of the whole store, and by labeler.

    Args:
        store: to look at.
        now: seconds since 1970, which decides what is leased.
    """
    with store.reading() as connection:

        def count(condition: str, *values: object) -> int:
            return connection.execute(COUNTS + condition, values).fetchone()[0]

        by_labeler = {}
        for number, name in connection.execute("SELECT id, name FROM labelers ORDER BY name").fetchall():
            seconds = connection.execute(
                "SELECT e.seconds FROM slots s JOIN events e ON e.id = s.answer"
                " WHERE s.labeler = ? AND e.seconds IS NOT NULL",
                (number,),
            )
            timed = [row[0] for row in seconds]
            by_labeler[name] = {
                "rankings": count("e.kind = 'ranking' AND s.labeler = ?", number),
                "cannot_judge": count("e.kind = 'cannot_judge' AND s.labeler = ?", number),
                "skipped": connection.execute(
                    "SELECT count(*) FROM events k WHERE kind = 'skip' AND labeler = ?"
                    " AND NOT EXISTS (SELECT 1 FROM events u WHERE u.undoes = k.id)",
                    (number,),
                ).fetchone()[0],
                "median_seconds": round(median(timed), 1) if timed else None,
            }
        return {
            "tasks": connection.execute("SELECT count(*) FROM tasks").fetchone()[0],
            "wanted": count("1"),
            "rankings": count("e.kind = 'ranking'"),
            "cannot_judge": count("e.kind = 'cannot_judge'"),
            "leased": count("s.answer IS NULL AND s.labeler IS NOT NULL AND s.leased_until >= ?", now),
            "open": count("s.answer IS NULL AND (s.labeler IS NULL OR s.leased_until < ?)", now),
            "labelers": by_labeler,
        }
