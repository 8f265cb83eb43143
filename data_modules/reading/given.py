"""Rows that were given in Python, in the place of a path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from functools import partial
from typing import Any, Self

from data_modules.formats.layout import Record
from data_modules.formats.messages import kind
from data_modules.reading.files import Found
from lit_instruct.errors import DataError

LEAVE_OUT = "shorten such rows, or leave them out of the dataset"
"""Advice on rows that are too long."""


class GivenRows(str):
    """Rows in memory, where a path is expected; its text names them in messages and in the record of a run.

    A row is a dict in any layout of `data_modules.formats`, a row type of `data_modules.rows`, a list of messages or,
    where plain text is a row, a text.

    Args:
        name: such as train_dataloader.
        rows: can be read several times.
    """

    rows: Iterable[Any]

    def __new__(cls, name: str, rows: Iterable[Any]) -> Self:
        """Makes the text."""
        given = super().__new__(cls, name)
        given.rows = rows
        return given

    def found(self, text_field: str | None) -> Iterator[Found]:
        """Yields the rows as records with their place; `text_field` is the field that a text stands for."""
        for number, row in enumerate(self.rows, start=1):
            yield Found(f"{self}:row {number}", partial(record_of, row, text_field), None)

    def digest(self) -> str:
        """Hashes the rows.

        Raises:
            DataError: a row holds something that is not data.
        """
        digest = hashlib.sha256()
        for number, row in enumerate(self.rows, start=1):
            try:
                digest.update(json.dumps(_plain(row), ensure_ascii=False).encode(errors="surrogatepass") + b"\n")
            except DataError as error:
                raise DataError(f"{self}:row {number}: {error}") from None
        return digest.hexdigest()


def record_of(row: Any, text_field: str | None) -> Record:
    """Returns a row as a record.

    Args:
        row: as in `GivenRows`.
        text_field: the field that a text stands for; None refuses texts.

    Raises:
        DataError: it is no row.
    """
    value = _plain(row)
    if isinstance(value, str) and text_field is not None:
        return {text_field: value}
    if isinstance(value, list) and value and all(isinstance(one, dict) and "role" in one for one in value):
        return {"messages": value}
    if not isinstance(value, dict):
        wanted = "a dict, a text or a list of messages" if text_field else "a dict or a list of messages"
        raise DataError(f"a row is {wanted}, not {kind(value)}; correct the data set")
    return value


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it: tensors and arrays as numbers, dataclasses as dicts.

    Raises:
        DataError: it is something else, such as an open file or a model.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        fields = asdict(value)
        extra, _ = fields.pop("extra", None) or {}, fields.pop("where", None)  # of the row types
        return _plain(extra | {name: item for name, item in fields.items() if item is not None})
    if hasattr(value, "tolist"):  # torch and numpy
        return _plain(value.tolist())
    if hasattr(value, "isoformat"):  # dates and times
        return value.isoformat()
    raise DataError(f"a {type(value).__module__}.{type(value).__qualname__} is no data; give texts, numbers and lists")
