"""Parquet and Arrow files: small files that unpack to gigabytes, and other kinds of Arrow files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from tests.data_modules.reading.files import LONG, prompts, reason, skipped

MIB = 2**20


def write(path: Path, table: pa.Table, rows: int | None = None) -> Path:
    pq.write_table(table, path, compression="zstd", row_group_size=rows)
    return path


def test_a_small_file_of_long_rows_is_refused_in_little_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", pa.table({"prompt": ["a" * 64 * MIB] * 6}))
    assert path.stat().st_size < 100_000
    before = pa.total_allocated_bytes()
    assert reason(path).startswith(":row 1: ")
    assert reason(path).endswith(
        "bytes of column prompt unpack to 64 MiB, which are no rows; write the file again, in smaller row groups"
    )
    assert pa.total_allocated_bytes() - before < MIB


def test_a_long_text_in_many_rows_is_unpacked_one_row_at_a_time(tmp_path: Path) -> None:
    texts = pa.chunked_array([["a" * 7 * MIB] + ["b"] * 50 + ["a" * 7 * MIB] * 50])
    path = write(tmp_path / "rows.parquet", pa.table({"prompt": texts.combine_chunks()}))
    pool = pa.default_memory_pool()
    start = pool.bytes_allocated()
    most, lengths = 0, []
    for row in prompts(path):
        lengths.append(len(row))
        most = max(most, pool.bytes_allocated() - start)
    assert lengths == [7 * MIB] + [1] * 50 + [7 * MIB] * 50
    assert most < 60 * MIB


def test_a_row_that_is_too_long_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", pa.table({"prompt": ["a", LONG, "b"]}), rows=2)
    left, ((place, why),) = skipped(path)
    assert left == ["a", "b"]
    assert place == ":row 2" and why.startswith("the row is longer than 8 MiB")


def test_a_list_of_a_billion_equal_items_is_refused(tmp_path: Path) -> None:
    lists = pa.array([[0] * 40_000_000], pa.list_(pa.int8()))
    path = write(tmp_path / "rows.parquet", pa.table({"prompt": ["a"], "items": lists}))
    assert "of column items.list.element unpack to" in reason(path)


def test_ordinary_columns_that_compress_well_are_read(tmp_path: Path) -> None:
    rows = 20_000
    table = pa.table({"prompt": ["The same words."] * rows, "user": ["u"] * rows, "id": [7] * rows})
    assert prompts(write(tmp_path / "rows.parquet", table)) == ["The same words."] * rows


@pytest.mark.parametrize("compression", ["uncompressed", "lz4"])
def test_a_feather_file(tmp_path: Path, compression: str) -> None:
    feather.write_feather(pa.table({"prompt": ["a", "b"]}), str(tmp_path / "rows.arrow"), compression=compression)
    assert prompts(tmp_path / "rows.arrow") == ["a", "b"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_arrow_file(tmp_path: Path, share: float) -> None:
    table = pa.table({"prompt": [f"prompt {number}" for number in range(99)]})
    path = tmp_path / "rows.arrow"
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "no Arrow file, or a damaged one (" in reason(path)
