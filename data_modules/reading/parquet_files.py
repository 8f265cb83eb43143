"""Parquet -> records, with one batch of rows in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_modules.reading.files import Found, Record, open_bytes
from lit_instruct.errors import DataError

BATCH = 256
"""Rows decoded together; rows with long conversations take megabytes."""


def read_parquet(path: Path) -> Iterator[Found]:
    """Yields one record per row; rows count from 1.

    Raises:
        DataError: it is not a Parquet file, or it is damaged.
    """
    number = 0
    with open_bytes(path) as stream:
        try:
            for batch in pq.ParquetFile(stream).iter_batches(BATCH):
                for index in range(batch.num_rows):
                    number += 1
                    yield Found(f"{path}:row {number}", partial(_record, batch, index), None)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last one for names of columns
            reason = str(error).strip().splitlines()[0]
            raise DataError(
                f"{path}:row {number + 1}: no Parquet file, or a damaged one ({reason}); fetch it again"
            ) from None


def _record(batch: pa.RecordBatch, index: int) -> Record:
    try:
        return {name: column[index].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text; convert the file to UTF-8") from None
    except (ValueError, OverflowError) as error:  # such as a date after the year 9999
        raise DataError(f"a value that cannot be read ({error}); correct the row") from None
