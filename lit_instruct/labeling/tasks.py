"""Tasks of a store: what is ranked, how often and by whom; and the order in which a labeler sees the responses."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lit_instruct.errors import UserError

if TYPE_CHECKING:
    from lit_instruct.prompting import Prompt

MOST_RESPONSES = 100
"""Of one task."""


@dataclass(frozen=True)
class Written:
    """A response and who wrote it."""

    text: str
    run: str | None = None
    """The policy, as it was named."""
    version: str | None = None
    """Its commit on a hub, or a digest of its weights."""


@dataclass(frozen=True)
class Task:
    """A prompt and its K responses."""

    prompt: Prompt
    responses: Sequence[Written]
    """No two have the same text."""
    columns: dict[str, Any]
    """Further fields of the prompt's row, such as user and use_case."""


@dataclass(frozen=True)
class Shares:
    """How many tasks are ranked more than once.

    Args:
        share: share of the tasks that several labelers rank.
        labelers: how many rank such a task.
        repeated: share of the tasks that their labeler ranks a second time, later.
    """

    share: float = 0.1
    labelers: int = 3
    repeated: float = 0.05

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("share", "repeated"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--overlap.{name}={getattr(self, name)}: must be between 0 and 1")
        if self.labelers < 2:
            raise UserError(f"--overlap.labelers={self.labelers}: several labelers are at least 2")


def distinct(texts: Iterable[Written]) -> list[Written]:
    """Returns the responses without empty ones and without repetitions of a text; the first writer stays."""
    found: dict[str, Written] = {}
    for one in texts:
        if one.text.strip():
            found.setdefault(one.text, one)
    return list(found.values())


def add_tasks(connection: sqlite3.Connection, tasks: Iterable[Task], shares: Shares, seed: int) -> int:
    """Adds tasks with a slot for each ranking that is wanted, and returns their number.

    Which tasks are shared and which repeated depends on the seed and on their place alone.

    Args:
        connection: in a transaction of a store without tasks.
        tasks: in the order in which they are given out.
        shares: how many are ranked more than once.
        seed: of the store.
    """
    count = len([add_task(connection, task) for task in tasks])
    numbers = sorted(range(1, count + 1), key=lambda number: _digest(seed, "task", number))
    several = round(shares.share * count)
    shared = set(numbers[:several])
    repeated = set(numbers[several : several + round(shares.repeated * count)])
    for number in range(1, count + 1):
        slots = shares.labelers if number in shared else 1
        for _ in range(slots):
            last = connection.execute("INSERT INTO slots (task) VALUES (?)", (number,)).lastrowid
        if number in repeated:
            connection.execute("INSERT INTO slots (task, repeats) VALUES (?, ?)", (number, last))
    return count


def add_task(connection: sqlite3.Connection, task: Task) -> int:
    """Adds a task without slots, and returns its number, counted from 1.

    Args:
        connection: in a writing transaction.
        task: with at least two responses.
    """
    number = connection.execute(
        "INSERT INTO tasks (prompt, columns) VALUES (?, ?)", (json.dumps(task.prompt), columns_text(task))
    ).lastrowid
    assert number is not None
    connection.executemany(
        "INSERT INTO responses VALUES (?, ?, ?, ?, ?)",
        [(number, i, one.text, one.run, one.version) for i, one in enumerate(task.responses)],
    )
    return number


def columns_text(task: Task) -> str:
    """Returns the further fields of a task as the JSON that the store keeps."""
    return json.dumps(task.columns, ensure_ascii=False, default=str)


def shown_order(seed: int, labeler: int, slot: int, k: int) -> list[int]:
    """Returns the numbers of a task's responses in the order in which a labeler sees them.

    It follows from the seed of the store, so that it can be told later; a task that comes twice has another order.

    Args:
        seed: of the store.
        labeler: number of the labeler.
        slot: number of the slot that the labeler answers.
        k: number of responses.
    """
    return sorted(range(k), key=lambda number: _digest(seed, "order", labeler, slot, number))


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(":".join(map(str, parts)).encode()).digest()
