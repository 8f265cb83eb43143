"""Parquet and Arrow files -> records, with a few rows in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_modules.reading.files import MAX_LINE, TOO_LONG, Found, Record, open_bytes
from lit_instruct.errors import DataError

BATCH = 16
"""Rows decoded together; a column that repeats a long text may hold it in each of them."""
EXPANSION = 200
"""A column that decompresses to more than this many times its bytes may hold rows of any size."""
MAX_EXPANDED = 2**28
"""Most bytes of such a column in a row group."""


def read_parquet(path: Path) -> Iterator[Found]:
    """Yields one record per row; rows count from 1.

    Raises:
        DataError: it is not a Parquet file, it is damaged, or a small part of it unpacks to gigabytes.
    """
    number = 0
    with open_bytes(path) as stream, _explained(path, "Parquet", lambda: number):
        file = pq.ParquetFile(stream)
        for group in range(file.num_row_groups):
            rows = _rows_together(path, file.metadata.row_group(group), number + 1)
            for batch in file.iter_batches(rows, [group]):
                yield from _found(path, batch, number)
                number += batch.num_rows


def read_arrow(path: Path) -> Iterator[Found]:
    """Yields one record per row of a file that `datasets` wrote, or of a Feather file; rows count from 1.

    Raises:
        DataError: it is not an Arrow file, or it is damaged.
    """
    number = 0
    with open_bytes(path), _explained(path, "Arrow", lambda: number), pa.memory_map(str(path)) as source:
        try:
            batches: Iterator[pa.RecordBatch] = iter(pa.ipc.open_stream(source))
        except pa.ArrowInvalid:
            source.seek(0)
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(place) for place in range(file.num_record_batches))
        for batch in batches:
            yield from _found(path, batch, number)
            number += batch.num_rows


@contextmanager
def _explained(path: Path, kind: str, read: Callable[[], int]) -> Iterator[None]:
    """Turns an error of pyarrow into a DataError; `read` tells how many rows there were before."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last one for names of columns
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"{path}:row {read() + 1}: no {kind} file, or a damaged one ({reason}); fetch it again"
        ) from None


def _rows_together(path: Path, group: pq.RowGroupMetaData, first: int) -> int:
    """Returns how many rows of a row group to decode together."""
    rows = BATCH
    for number in range(group.num_columns):
        column = group.column(number)
        size = max(column.total_uncompressed_size, 8 * column.num_values)
        if size > MAX_LINE and size > EXPANSION * column.total_compressed_size:
            rows = 1
            if size > min(MAX_EXPANDED, MAX_LINE * group.num_rows):
                packed = f"{column.total_compressed_size} bytes of column {column.path_in_schema}"
                raise DataError(
                    f"{path}:row {first}: {packed} unpack to {size // 2**20} MiB, which are no rows; write the file "
                    "again, in smaller row groups"
                )
    return rows


def _found(path: Path, batch: pa.RecordBatch, before: int) -> Iterator[Found]:
    for index in range(batch.num_rows):
        yield Found(f"{path}:row {before + index + 1}", partial(_record, batch, index), None)


def _record(batch: pa.RecordBatch, index: int) -> Record:
    if batch.slice(index, 1).nbytes > MAX_LINE:
        raise DataError(f"the row is {TOO_LONG}")
    try:
        return {name: column[index].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text; convert the file to UTF-8") from None
    except (ValueError, OverflowError) as error:  # such as a date after the year 9999
        raise DataError(f"a value that cannot be read ({error}); correct the row") from None
