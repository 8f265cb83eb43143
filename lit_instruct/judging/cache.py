"""Answers of judges on the disk, by content: a question that was answered is never asked again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.files import cannot_write

BUSY = 60.0
"""Seconds to wait for another process that writes to the file."""
VERSION = 1
TABLE = """
CREATE TABLE IF NOT EXISTS answers (question TEXT PRIMARY KEY, model TEXT, answer TEXT NOT NULL, at TEXT NOT NULL)
WITHOUT ROWID
"""


class AnswerCache:
    """One SQLite file of answers, each saved when it comes; threads and processes may share it.

    Args:
        path: the file, made if it is missing.
        name: the option and what it names, for messages.

    Raises:
        UserError: it cannot be opened, or is another file.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._lock = threading.Lock()
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION) or (version == 0 and self._has_tables()):
                raise sqlite3.DatabaseError("it has other tables")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")  # a loss of power may cost the last answers
            self._connection.execute(TABLE)
            self._connection.execute(f"PRAGMA user_version = {VERSION}")

    def get(self, question: str) -> str | None:
        """Returns the answer to a question, by its `digest`; None if there is none."""
        with self._explained(), self._lock:
            found = self._connection.execute("SELECT answer FROM answers WHERE question = ?", [question]).fetchone()
        return found[0] if found else None

    def put(self, question: str, model: str, answer: str) -> None:
        """Saves an answer.

        Raises:
            UserError: the disk is full.
        """
        at = datetime.now(UTC).isoformat(timespec="seconds")
        text = answer.encode(errors="replace").decode()
        with self._explained(), self._lock:
            self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", [question, model, text, at])

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def _has_tables(self) -> bool:
        return self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise cannot_write(self.path, error, f"`cache` in {self.name}") from error
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: not a cache of answers, or damaged ({error}); move it away, or name another file with "
                f"`cache` in {self.name}"
            ) from error


def digest(url: str, body: Mapping[str, Any]) -> str:
    """Returns the name of a question in the cache: address, model, all settings, and the text with its template."""
    return hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()
