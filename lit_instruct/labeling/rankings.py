"""The rankings that count in a store, with their tasks: what export and agreement read."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.labeling.store import Store
from lit_instruct.labeling.tasks import Written
from lit_instruct.prompting import Prompt


@dataclass(frozen=True)
class Ranked:
    """One labeler's ranking of one task; lists follow the order of the responses in the store."""

    task: int
    labeler: str
    ranks: list[int]
    prompt: Prompt
    responses: list[Written]
    columns: dict[str, Any]
    quality: list[int | None] | None
    flags: list[list[str]] | None
    seconds: float | None
    at: str
    repeated: bool
    """Whether the labeler had ranked the same task before."""
    more: dict[str, Any] = field(default_factory=dict)
    """Of a ranking that was imported: scores, margin and further fields of its row."""

    @property
    def texts(self) -> list[str]:
        """The responses."""
        return [one.text for one in self.responses]


@dataclass
class LabelerSplit:
    """Labelers that are kept apart, to see whether a reward model carries over to people it never saw (section 3.4).

    Args:
        held_out: number of labelers that are held out; they are drawn by the seed of the store.
    """

    held_out: int = field(default=0)

    def __post_init__(self) -> None:
        """Checks the number."""
        if self.held_out < 0:
            raise UserError(f"--labelers.held_out={self.held_out}: must be 0 or more")


def rankings(store: Store) -> list[Ranked]:
    """Returns the rankings that were not taken back, in the order in which they were saved."""
    with store.reading() as connection:
        return list(_rankings(connection))


def held_out(store: Store, names: Sequence[str], count: int) -> set[str]:
    """Returns the labelers that are held out, of those that have ranked something.

    Who it is depends on the seed of the store and the names alone, so that a labeler who joins changes at most one.

    Args:
        store: of the labelers.
        names: of labelers with rankings.
        count: how many are held out.

    Raises:
        UserError: none would be left.
    """
    if count and count >= len(set(names)):
        raise UserError(
            f"--labelers.held_out={count}: {len(set(names))} labelers have ranked something, and at least one must "
            "be left; hold out fewer"
        )
    seed = store.meta["seed"]
    drawn = sorted(set(names), key=lambda name: hashlib.sha256(f"{seed}:held out:{name}".encode()).digest())
    return set(drawn[:count])


def _rankings(connection: sqlite3.Connection) -> Iterator[Ranked]:
    responses: dict[int, list[Written]] = {}
    for row in connection.execute("SELECT task, text, run, version FROM responses ORDER BY task, number"):
        responses.setdefault(row["task"], []).append(Written(row["text"], row["run"], row["version"]))
    tasks = {row["id"]: row for row in connection.execute("SELECT id, prompt, columns FROM tasks")}
    found = connection.execute(
        "SELECT e.*, l.name, s.repeats IS NOT NULL AS repeated FROM slots s JOIN events e ON e.id = s.answer"
        " JOIN labelers l ON l.id = e.labeler WHERE e.kind = 'ranking' ORDER BY e.id"
    )
    for row in found:
        body, task = json.loads(row["body"]), tasks[row["task"]]
        yield Ranked(
            task=row["task"],
            labeler=row["name"],
            ranks=body["ranks"],
            prompt=json.loads(task["prompt"]),
            responses=responses[row["task"]],
            columns=json.loads(task["columns"]),
            quality=body.get("quality"),
            flags=body.get("flags"),
            seconds=row["seconds"],
            at=row["at"],
            repeated=bool(row["repeated"]),
            more=body.get("more", {}),
        )
