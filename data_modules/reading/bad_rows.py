"""Bad rows: counted, and written to a file with the reason."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any, Literal, Self

from lit_instruct.errors import DataError, UserError
from lit_instruct.files import beside

OnBadRow = Literal["error", "skip"]


class BadRows:
    """Counts bad rows and writes {where, reason, row} for each to a .jsonl file, which appears once it is complete.

    Args:
        path: the file; None only counts. It replaces an earlier one when the `with` block ends, and only if there were
            bad rows.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.count = 0
        self.first: DataError | None = None
        """Place of the first bad row, and why it is bad."""
        self._file: IO[str] | None = None

    def add(self, where: str, reason: str, row: Any) -> None:
        """Counts a row.

        Args:
            where: "file:line".
            reason: what is wrong with it.
            row: its content, as in the file (bytes or text; a list for several records) or decoded.

        Raises:
            UserError: the file cannot be written.
        """
        self.count += 1
        self.first = self.first or DataError(f"{where}: {reason}")
        if self.path is None:
            return
        line = json.dumps({"where": where, "reason": reason, "row": _readable(row)}, default=str)
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = beside(self.path).open("w", encoding="utf-8")
            self._file.write(line + "\n")
        except OSError as error:
            raise UserError(f"{self.path}: the bad rows cannot be written there ({error.strerror})") from error

    def describe(self) -> str:
        """Says how many there were, where they were written and what is wrong with the first."""
        place = f", written to {self.path}" if self.path is not None else ""
        return f"{self.count} bad rows skipped{place}; the first: {self.first}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self.path is not None:
            self._file.close()
            os.replace(beside(self.path), self.path)
            self._file = None


def refuse(where: str, error: DataError, row: Any, bad_rows: BadRows | None) -> None:
    """Adds a row to `bad_rows`; None means that a bad row is an error, raised with its place."""
    if bad_rows is None:
        raise DataError(f"{where}: {error}") from None
    bad_rows.add(where, str(error), row)


def _readable(row: Any) -> Any:
    if isinstance(row, list):
        return [_readable(part) for part in row]
    return row.decode(errors="replace") if isinstance(row, bytes) else row
