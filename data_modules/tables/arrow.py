"""Rows and their token ids in Arrow files: written batch by batch, read by row number from the memory-mapped file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa

from data_modules.hygiene.steps import Mask
from data_modules.rows import Row

RowT = TypeVar("RowT", bound=Row)
Item = dict[str, Any]

ROW = "row"
"""Column of the row itself, as JSON."""
READ_TOGETHER = 256
BYTES_TOGETHER = 8_000_000
"""Bytes of one record batch in the file: opening the file loads the first pages of every record batch."""


def write_table(path: Path, batches: Iterable[tuple[Sequence[str], Sequence[Item]]]) -> int:
    """Writes rows and their items, and returns how many; without rows no file is written.

    Args:
        path: new file in Arrow's stream format, which `datasets` can map into memory.
        batches: rows (from `row_to_json`) with their items, at least one each; integers in items are token ids, labels
            or ranks and are stored in 32 bits.
    """
    count = 0
    waiting: list[pa.RecordBatch] = []
    with ExitStack() as stack:
        writer = None
        for rows, items in batches:
            columns = {ROW: pa.array(rows, pa.string())}
            columns |= {name: pa.array([item[name] for item in items]) for name in items[0]}
            batch = pa.RecordBatch.from_pydict(columns)
            if writer is None:
                schema = pa.schema([(column.name, _narrow(column.type)) for column in batch.schema])
                writer = stack.enter_context(pa.ipc.new_stream(str(path), schema))
            waiting.append(batch.cast(schema))
            count += len(rows)
            if sum(one.nbytes for one in waiting) > BYTES_TOGETHER:
                writer.write_batch(pa.concat_batches(waiting))
                waiting = []
        if writer is not None and waiting:
            writer.write_batch(pa.concat_batches(waiting))
    return count


def split_table(path: Path, parts: dict[Path, Mask]) -> None:
    """Distributes the rows of a table over new tables, in order, and deletes the table.

    Args:
        path: written by `write_table`.
        parts: new file -> (rows,) which rows it gets; no file is written without rows.
    """
    if not path.exists():
        return
    wanted = {part: mask for part, mask in parts.items() if mask.any()}
    if len(wanted) == 1 and all(mask.all() for mask in wanted.values()):
        os.replace(path, *wanted)
        return
    with ExitStack() as stack:
        reader = stack.enter_context(pa.ipc.open_stream(stack.enter_context(pa.OSFile(str(path)))))
        writers = {part: stack.enter_context(pa.ipc.new_stream(str(part), reader.schema)) for part in wanted}
        start = 0
        for batch in reader:
            for part, writer in writers.items():
                chosen = batch.filter(pa.array(wanted[part][start : start + batch.num_rows]))
                if chosen.num_rows:
                    writer.write_batch(chosen)
            start += batch.num_rows
    path.unlink()


def open_table(path: Path, row_type: type[RowT]) -> tuple[Any, LazyRows[RowT]]:
    """Returns the items of a table as a `datasets.Dataset`, and its rows; both stay on disk."""
    from datasets import Dataset  # imports slowly

    table = Dataset.from_file(str(path))
    return table.remove_columns(ROW), LazyRows(table.select_columns(ROW), row_type)


@dataclass(eq=False)
class LazyRows(Sequence[RowT]):
    """Rows in a file, decoded when they are accessed."""

    table: Any
    """`datasets.Dataset` with the column "row"; None means no rows."""
    row_type: type[RowT]

    def __len__(self) -> int:
        return 0 if self.table is None else len(self.table)

    @overload
    def __getitem__(self, index: int) -> RowT: ...
    @overload
    def __getitem__(self, index: slice) -> list[RowT]: ...
    def __getitem__(self, index: int | slice) -> RowT | list[RowT]:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        return self.take([range(len(self))[index]])[0]

    def __iter__(self) -> Iterator[RowT]:
        for start in range(0, len(self), READ_TOGETHER):
            yield from self.take(range(start, min(start + READ_TOGETHER, len(self))))

    def take(self, indices: Sequence[int]) -> list[RowT]:
        """The rows with these numbers."""
        found = self.table[list(indices)][ROW] if len(indices) else []
        return [row_from_json(text, self.row_type) for text in found]


def row_to_json(row: Row) -> str:
    """Encodes all fields of a row except where it was read: in the next run the same file may have another path."""
    return json.dumps({f.name: getattr(row, f.name) for f in fields(row) if f.name != "where"}, default=str)


def row_from_json(text: str, row_type: type[RowT]) -> RowT:
    """Decodes a row encoded by `row_to_json`."""
    return row_type(**json.loads(text))


def number_rows(table: Any) -> Any:
    """Adds a column row_number that counts from 0."""
    return table.add_column("row_number", np.arange(len(table), dtype=np.int32))


def _narrow(kind: pa.DataType) -> pa.DataType:
    """The same type with integers in 32 bits."""
    if pa.types.is_list(kind):
        return pa.list_(_narrow(kind.value_type))
    return pa.int32() if pa.types.is_integer(kind) else kind
