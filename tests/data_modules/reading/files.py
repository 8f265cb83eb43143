"""Writes files of rows and reads them: the rows, the reason why not, or what was skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.reading.bad_rows import BadRows
from data_modules.rows import PromptRow, read_rows, stream_rows
from lit_instruct.errors import DataError

LONG = "x" * (10 * 2**20)


def prompts(path: Path | str, **options: Any) -> list[Any]:
    return [row.prompt for row in read_rows(path, PromptRow, **options)]


def reason(path: Path | str, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        read_rows(path, PromptRow, **options)
    return str(error.value).removeprefix(str(path))


def skipped(path: Path, row_type: Any = PromptRow) -> tuple[list[Any], list[tuple[str, str]]]:
    """The prompts that are left, and (place in the file, reason) of the rows written aside."""
    aside = path.parent / "aside" / "bad.jsonl"
    with BadRows(aside) as bad:
        rows = list(stream_rows(path, row_type, on_bad_row="skip", bad_rows=bad))
        assert not aside.exists()  # it appears when it is whole
    written = [json.loads(line) for line in aside.read_text().splitlines()] if bad.count else []
    assert len(written) == bad.count
    return [row.prompt for row in rows], [(one["where"].removeprefix(str(path)), one["reason"]) for one in written]


def file(folder: Path, content: str | bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet(folder: Path, records: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(records), folder / "rows.parquet", row_group_size=2)
    return folder / "rows.parquet"
