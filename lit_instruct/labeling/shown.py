"""What the page gets to show: a task in the labeler's own order, without a word on who wrote which response."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from lit_instruct.labeling.answers import Rules, last_body
from lit_instruct.labeling.labelers import progress_of
from lit_instruct.labeling.leases import Slot, lease_next
from lit_instruct.labeling.tasks import shown_order


def next_shown(connection: sqlite3.Connection, labeler: int, rules: Rules, now: float) -> dict[str, Any]:
    """Leases the labeler's next task and returns it with their progress; the task is None if none is left.

    Args:
        connection: in a writing transaction.
        labeler: number of the labeler.
        rules: of the store.
        now: seconds since 1970.
    """
    slot = lease_next(connection, labeler, now, rules.lease_seconds)
    task = None if slot is None else _shown(connection, slot, labeler, rules)
    return {"task": task, "progress": progress_of(connection, labeler)}


def _shown(connection: sqlite3.Connection, slot: Slot, labeler: int, rules: Rules) -> dict[str, Any]:
    texts = [
        row[0] for row in connection.execute("SELECT text FROM responses WHERE task = ? ORDER BY number", (slot.task,))
    ]
    order = shown_order(rules.seed, labeler, slot.id, len(texts))
    prompt = json.loads(connection.execute("SELECT prompt FROM tasks WHERE id = ?", (slot.task,)).fetchone()[0])
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return {
        "slot": slot.id,
        "prompt": [{"role": str(turn["role"]), "text": str(turn["content"])} for turn in turns],
        "responses": [texts[number] for number in order],
        "earlier": last_body(connection, labeler, slot.id, order),
    }
