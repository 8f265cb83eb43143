"""The store of a ranking project: one SQLite file with tasks, responses, labelers and what the labelers answered.

Answers are events that are never changed or removed; taking one back is an event too. `slots.answer` points to the
event that counts, so that the next open slot is found without reading all events. Both change in one transaction.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.files import cannot_write, replacing_file

VERSION = "1"
"""Of the tables; stores of another one are refused."""
TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tasks (id INTEGER PRIMARY KEY, prompt TEXT NOT NULL, columns TEXT NOT NULL);
CREATE TABLE responses (
    task INTEGER NOT NULL REFERENCES tasks, number INTEGER NOT NULL, text TEXT NOT NULL, run TEXT, version TEXT,
    PRIMARY KEY (task, number)
) WITHOUT ROWID;
CREATE TABLE labelers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, since TEXT NOT NULL);
CREATE TABLE slots (
    id INTEGER PRIMARY KEY, task INTEGER NOT NULL REFERENCES tasks, repeats INTEGER REFERENCES slots,
    labeler INTEGER REFERENCES labelers, leased_until REAL, answer INTEGER UNIQUE REFERENCES events
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('ranking', 'cannot_judge', 'skip', 'undo')),
    labeler INTEGER NOT NULL REFERENCES labelers, task INTEGER NOT NULL REFERENCES tasks,
    slot INTEGER NOT NULL REFERENCES slots, undoes INTEGER UNIQUE REFERENCES events,
    body TEXT NOT NULL, seconds REAL, at TEXT NOT NULL
);
CREATE INDEX open_slots ON slots (id) WHERE answer IS NULL;
CREATE INDEX slots_of_task ON slots (task, labeler);
CREATE INDEX slots_of_labeler ON slots (labeler, answer);
CREATE INDEX repeating_slots ON slots (repeats) WHERE repeats IS NOT NULL;
CREATE INDEX events_of_labeler ON events (labeler, id);
CREATE INDEX events_of_task ON events (task, labeler, kind);
CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_last BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never removed'); END;
"""
BUSY = 10.0
"""Seconds to wait for another process that writes to the file."""


class Store:
    """An open store; its connection may be used from several threads, one at a time.

    Args:
        path: the SQLite file, which must exist.
        option: that named it, for messages.

    Raises:
        UserError: it is missing, no store, or of another version.
    """

    def __init__(self, path: Path, option: str = "--store") -> None:
        if not path.is_file():
            raise UserError(
                f"{option}={path}: no such store; `lit-instruct rank --data.path=... {option}=...` makes it"
            )
        self.path = path
        self._lock = threading.RLock()
        try:
            self._connection = _connect(path)
            self.meta: dict[str, Any] = _read_meta(self._connection)
        except sqlite3.Error as error:
            raise UserError(f"{option}={path}: not a store of rankings ({error}); name another file") from error
        if self.meta.get("version") != VERSION:
            self.close()
            found = self.meta.get("version")
            raise UserError(
                f"{option}={path}: this store has version {found}, and this program reads version {VERSION}; "
                "export it with the version of lit-instruct that made it, or name another store"
            )

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Gives the connection to one thread, in a transaction that sees one state of the store."""
        with self._lock:
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Gives the connection to one thread, in a transaction that is on the disk when the block ends without error.

        Raises:
            sqlite3.Error: it cannot be written, such as on a full disk; the store is as before.
        """
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()


@contextlib.contextmanager
def new_store(path: Path, meta: Mapping[str, Any]) -> Iterator[sqlite3.Connection]:
    """Gives a connection whose store appears as `path` when the block ends without an error.

    Args:
        path: of the store; there is no file yet.
        meta: what the store says about itself; a version and a secret for its address are added.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as scratch:
            scratch.unlink(missing_ok=True)
            scratch.touch(mode=0o600)
            connection = sqlite3.connect(scratch, isolation_level=None)
            try:
                connection.executescript(TABLES)
                connection.execute("BEGIN")
                about = {"version": VERSION, "token": secrets.token_urlsafe(24), **meta}
                values = [(name, json.dumps(value)) for name, value in about.items()]
                connection.executemany("INSERT INTO meta VALUES (?, ?)", values)
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.close()
    except (OSError, sqlite3.OperationalError) as error:
        raise cannot_write(path, error, "--store") from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    return {name: json.loads(value) for name, value in connection.execute("SELECT name, value FROM meta")}
