"""Whatever a file holds, reading it gives rows or DataError, and skipping bad rows never stops for one of them."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_modules.reading.bad_rows import BadRows
from data_modules.reading.texts import stream_documents
from data_modules.rows import Demonstration, PromptRow, RankedComparison, Row, read_rows
from lit_instruct.errors import DataError
from tests.data_modules.layouts import CASES

ROW_TYPES = [Demonstration, RankedComparison, PromptRow]
SUFFIXES = [".jsonl", ".json", ".csv", ".parquet", ".txt", ".jsonl.gz", ".csv.gz"]
LAYOUTS = [(row_type, layout.name) for row_type in ROW_TYPES for layout in row_type.layouts]
FIELDS = sorted({name for _, _, record, _ in CASES for name in record} | {"message_id", "parent_id", "text", "role"})
INNER = ["role", "content", "from", "value", "text", "rank", "replies", "response", "answer", "completion", "full_text"]
KNOWN_TEXTS = ["", " ", "user", "assistant", "prompter", "\n\nHuman: a\n\nAssistant: b", "\ud83d", "[1]", "NaN"]

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**400, max_value=10**401)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(KNOWN_TEXTS)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(INNER) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
records = st.dictionaries(st.sampled_from(FIELDS), values, max_size=6)
good_records = [record for _, _, record, _ in CASES]


def examples(count: int) -> settings:
    """Settings of a test with that many examples, the same in every run; EXAMPLES=50 makes it random and longer."""
    count *= int(os.environ.get("EXAMPLES", "1"))
    ignored = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(
        max_examples=count, deadline=None, database=None, derandomize=count <= 200, suppress_health_check=ignored
    )


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A good record of some layout with one value in it, however deep, replaced."""
    record = json.loads(json.dumps(draw(st.sampled_from(good_records))))
    node: Any = record
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
            node = node[key]
            continue
        if draw(st.booleans()):
            del node[key]
        else:
            node[key] = draw(values)
        return record


def reads(path: Path, row_type: type[Row], layout: str = "auto") -> None:
    """Reads in both ways; only DataError may come out, and its message begins with the path."""
    for on_bad_row in ("error", "skip"):
        try:
            rows = read_rows(path, row_type, layout=layout, on_bad_row=on_bad_row, bad_rows=BadRows())
        except DataError as error:
            assert str(error).startswith(str(path))
        else:
            assert rows and all(isinstance(row, row_type) for row in rows)


@pytest.mark.parametrize(("row_type", "layout"), LAYOUTS, ids=[name for _, name in LAYOUTS])
@examples(30)
@given(lines=st.lists(records | mutated() | values, min_size=1, max_size=3))
def test_any_json_in_any_layout(tmp_path: Path, row_type: type[Row], layout: str, lines: list[Any]):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    reads(path, row_type, layout)


@pytest.mark.parametrize("row_type", ROW_TYPES)
@examples(100)
@given(lines=st.lists(records | mutated() | values, min_size=1, max_size=3))
def test_any_json_with_the_layout_detected(tmp_path: Path, row_type: type[Row], lines: list[Any]):
    for name, text in (("rows.jsonl", "\n".join(map(json.dumps, lines))), ("rows.json", json.dumps(lines))):
        (tmp_path / name).write_text(text)
        reads(tmp_path / name, row_type)


@pytest.mark.parametrize("row_type", ROW_TYPES)
@examples(60)
@given(record=mutated() | records.filter(bool))
def test_any_json_in_the_cells_of_csv(tmp_path: Path, row_type: type[Row], record: dict[str, Any]):
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        writer = csv.writer(file)
        writer.writerows([record.keys(), *[[json.dumps(value) for value in record.values()]] * 2, record.values()])
    reads(path, row_type)


@pytest.mark.parametrize("suffix", SUFFIXES)
@examples(60)
@given(content=st.binary(max_size=200) | st.text(alphabet='[]{}",:\n\r\\ab1\ud83d ', max_size=60))
def test_any_bytes_in_any_file(suffix: str, content: bytes | str):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{suffix}"
        path.write_bytes(content.encode(errors="surrogatepass") if isinstance(content, str) else content)
        for row_type in ROW_TYPES:
            reads(path, row_type)
        try:
            [list(document) for document in stream_documents(path)]
        except DataError as error:
            assert str(error).startswith(str(path))


@examples(60)
@given(data=st.data())
def test_any_table_in_parquet(tmp_path: Path, data: st.DataObject):
    record = data.draw(records.filter(bool))
    try:
        table = pa.Table.from_pylist([record])
        pq.write_table(table, tmp_path / "rows.parquet")
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
        return  # no table holds this
    for row_type in ROW_TYPES:
        reads(tmp_path / "rows.parquet", row_type)


@examples(60)
@given(at=st.integers(0, 10**6), change=st.binary(min_size=1, max_size=8))
def test_any_damage_to_parquet(tmp_path: Path, at: int, change: bytes):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{"prompt": f"p{number}", "user": "u"} for number in range(20)]), path)
    content = bytearray(path.read_bytes())
    at %= len(content)
    content[at : at + len(change)] = change
    path.write_bytes(content)
    reads(path, PromptRow)
