"""CSV with a header -> records; lists and objects are written as JSON in their cells."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from data_modules.reading.files import MAX_LINE, TOO_LONG, Found, Record, read_lines
from lit_instruct.errors import DataError

STRUCTURED = frozenset(("answers", "completions", "conversation", "conversations", "info", "messages"))
STRUCTURED |= {"ranks", "responses", "scores", "summaries"}
"""Columns that are never plain text, in any layout."""
NUMBERS = frozenset(("choice", "margin", "rank", "score_0", "score_1"))
TEXT_OR_STRUCTURED = frozenset(("chosen", "completion", "context", "prompt", "question", "rejected"))
"""Columns that hold text in some layouts and messages in others."""

DELIMITERS = (",", ";", "\t")


def read_csv(path: Path, delimiter: str | None = None) -> Iterator[Found]:
    """Yields one record per row, with the line on which it begins; an empty cell is a missing field.

    Cells are separated by `delimiter`; None takes commas, or as the header shows semicolons or tabs.

    Raises:
        DataError: the header is missing or names a column twice.
    """
    csv.field_size_limit(MAX_LINE)
    lines = _Lines(path)
    first = next(lines, "")
    if first.lower().startswith("sep=") and len(first.rstrip()) == 5:  # a line of Excel
        first = next(lines, "")
    reader = csv.reader(chain([first] if first else [], lines), strict=True, delimiter=delimiter or _delimiter(first))
    header = _header(path, reader)
    while True:
        line = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"broken CSV ({error}); correct the row"
            yield Found(f"{path}:{line}", partial(_refuse, reason), None)
            continue
        if lines.too_long:
            lines.too_long = False
            yield Found(f"{path}:{line}", partial(_refuse, f"the line is {TOO_LONG}"), None)
        elif cells:
            yield Found(f"{path}:{line}", partial(_record, header, cells), cells)


class _Lines:
    """Lines for csv.reader, counted; bytes that are not UTF-8 become lone surrogates."""

    def __init__(self, path: Path) -> None:
        self.lines = read_lines(path)
        self.number = 0
        self.too_long = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, line = next(self.lines)
        self.too_long |= line is None
        return (line or b"").decode(errors="surrogateescape") + "\n"


def _delimiter(header: str) -> str:
    """A comma, or a semicolon or tab if these separate columns of the header and a comma does not."""
    try:
        counts = {delimiter: len(next(csv.reader([header], delimiter=delimiter), [])) for delimiter in DELIMITERS}
    except csv.Error:  # reading the header will say what is wrong
        return DELIMITERS[0]
    return DELIMITERS[0] if counts[DELIMITERS[0]] > 1 else max(DELIMITERS, key=lambda delimiter: counts[delimiter])


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = [name.strip() for name in next(reader)]
    except StopIteration:
        return []
    except csv.Error as error:
        raise DataError(f"{path}:1: broken CSV ({error}); correct the header") from None
    twice = next((name for name, count in Counter(header).items() if count > 1), None)
    if twice is not None:
        raise DataError(f'{path}:1: the header names column "{twice}" twice; rename one')
    return header


def _refuse(reason: str) -> Any:
    raise DataError(reason)


def _record(header: list[str], cells: list[str]) -> Record:
    if len(cells) != len(header):
        raise DataError(f"{len(cells)} cells for the {len(header)} columns of the header; correct the row")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        raise DataError("not UTF-8 text; convert the file to UTF-8") from None
    return {name: _value(name, cell) for name, cell in zip(header, cells, strict=True) if cell}


def _value(name: str, cell: str) -> Any:
    """The value of a cell: JSON if its column must be a list or a number, else its text."""
    if name in STRUCTURED or name in NUMBERS:
        value = _from_json(cell)
        if value is None:
            what = "a number" if name in NUMBERS else "a list or an object, written as JSON"
            raise DataError(f'column "{name}" must be {what}; correct the row')
        return value
    if name in TEXT_OR_STRUCTURED and cell.lstrip()[:1] in ("[", "{"):
        value = _from_json(cell)
        messages = isinstance(value, list) and value and all(isinstance(v, dict) and "role" in v for v in value)
        return value if messages or isinstance(value, dict) else cell
    return cell


def _from_json(cell: str) -> Any:
    """The value, or None if the cell is not JSON."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return None
