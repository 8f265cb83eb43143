"""The file that `lit-instruct rm score` writes: rows with their scores, continued where an earlier run stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from lit_instruct.errors import UserError
from lit_instruct.files import cannot_write

Scores = float | list[float]
TOLERANCE = 0.02
"""Absolute and relative difference allowed between scores of the same model on different devices."""


class ScoredFile:
    """JSON lines whose last field is the score; existing lines are checked and kept.

    Args:
        path: the file, created if missing; it changes only after all of its lines have been checked.
        model: name of the reward model, for messages.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path = path
        self.model = model
        try:
            self._written: IO[bytes] = path.open("ab")
            self._earlier: IO[bytes] = path.open("rb")
            self.earlier_rows, self._whole, self._cut = self._measure()
        except OSError as error:
            raise cannot_write(path, error, "--out") from error
        self._line = 0

    def expect(self, total: int) -> None:
        """Raises UserError if the file has more than `total` rows."""
        if self.earlier_rows + bool(self._cut) > total:
            raise self._refusal(total + 1, f"the data has only {total} rows; the file belongs to other data")

    @property
    def rows_follow(self) -> bool:
        """Whether `take` has earlier rows left."""
        return self._line < self.earlier_rows

    def take(self, row: dict[str, Any], field: str, where: str) -> Scores:
        """Returns the score of the file's next row, which must be this one.

        Args:
            row: the row without its score.
            field: name of the score's field.
            where: "file:line" of the row, for the message.

        Raises:
            UserError: the next row differs or has no score.
        """
        self._line += 1
        line, start = self._earlier.readline(), _start(row, field)
        try:
            if line.startswith(start):
                return json.loads(line[len(start) :].rstrip()[:-1])
        except ValueError:  # not a number: refused like any other mismatch
            pass
        raise self._refusal(self._line, f"this is not {where} with its {field}; the file belongs to other data")

    def check(self, earlier: Sequence[Scores], scores: Sequence[Scores]) -> None:
        """Raises UserError if the scores of the last rows taken differ from the model's."""
        first = self._line - len(earlier) + 1
        for line, (before, now) in enumerate(zip(earlier, scores, strict=False), start=first):
            if not _same(before, now):
                reason = f"{self.model} scores this {now}, not {before}; the file belongs to another model"
                raise self._refusal(line, reason)

    def write(self, rows: Sequence[tuple[dict[str, Any], str, Scores]]) -> None:
        """Appends rows, each with its score's field and score, and flushes; the first completes a truncated last line.

        Raises:
            UserError: that line belongs to another row, or the rows cannot be written.
        """
        try:
            if rows and self._cut:
                self._replace_cut_line(*rows[0][:2])
            for row, field, scores in rows:
                self._written.write(_start(row, field) + json.dumps(scores).encode() + b"}\n")
            self._written.flush()
        except OSError as error:
            raise cannot_write(self.path, error, "--out") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._earlier.close()
        self._written.close()

    def _replace_cut_line(self, row: dict[str, Any], field: str) -> None:
        start = _start(row, field)
        if not (self._cut.startswith(start) or start.startswith(self._cut)):
            reason = "this is not the start of the next row; the file belongs to other data"
            raise self._refusal(self.earlier_rows + 1, reason)
        self._written.truncate(self._whole)
        self._cut = b""

    def _measure(self) -> tuple[int, int, bytes]:
        """Number of complete lines, their bytes, and the incomplete line after them."""
        lines, whole, rest = 0, 0, b""
        for line in self._earlier:
            if line.endswith(b"\n"):
                lines, whole = lines + 1, whole + len(line)
            else:
                rest = line
        self._earlier.seek(0)
        return lines, whole, rest

    def _refusal(self, line: int, reason: str) -> UserError:
        return UserError(f"--out={self.path}: line {line}: {reason}; name another --out, or remove the file")


def _start(row: dict[str, Any], field: str) -> bytes:
    """The line of a row up to its score, in UTF-8; rows with a lone surrogate, which UTF-8 cannot hold, are escaped."""
    try:
        line = json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        line = json.dumps(row, default=str).encode()
    return line[:-1] + f", {json.dumps(field)}: ".encode()


def _same(one: Scores, other: Scores) -> bool:
    ones, others = ([value] if isinstance(value, float | int) else value for value in (one, other))
    if not isinstance(ones, list) or not isinstance(others, list) or len(ones) != len(others):
        return False
    return all(abs(a - b) <= TOLERANCE * (1 + abs(b)) for a, b in zip(ones, others, strict=True))
