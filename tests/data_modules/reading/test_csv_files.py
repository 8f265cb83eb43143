"""CSV files: what cells become, and the line of what is broken."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from data_modules.rows import PromptRow, RankedComparison, read_rows
from lit_instruct.errors import DataError
from tests.data_modules.reading.files import file, reason, skipped


def test_csv(tmp_path: Path):
    path = file(tmp_path, '\ufeffprompt,user\r\n"a ""b"",\r\nc",u1\r\n\r\n"[1, 2]",\r\n', "rows.csv")
    rows = read_rows(path, PromptRow)
    assert rows == [PromptRow('a "b",\nc', "u1"), PromptRow("[1, 2]")]
    assert [row.where for row in rows] == [f"{path}:2", f"{path}:5"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,u1,x", "3 cells for the 2 columns of the header; correct the row"),
        ('"a"x,u1', "broken CSV (',' expected after '\"'); correct the row"),
        (b"\xe9,u1", "not UTF-8 text; convert the file to UTF-8"),
        (",u1", 'field "prompt" is missing'),
    ],
)
def test_bad_rows_of_csv(tmp_path: Path, row: str | bytes, message: str):
    content = b"prompt,user\nb,u0\n" + (row.encode() if isinstance(row, str) else row) + b"\nc,u2\n"
    path = file(tmp_path, content, "rows.csv")
    assert reason(path).startswith(f":3: {message}")
    left, bad = skipped(path)
    assert left == ["b", "c"] and len(bad) == 1 and bad[0][1].startswith(message)


def test_broken_csv_files(tmp_path: Path):
    assert reason(file(tmp_path, "prompt,prompt\na,b\n", "rows.csv")).startswith(':1: the header names column "prompt"')
    assert reason(file(tmp_path, 'prompt\na\n"b\nc\n', "rows.csv")).startswith(":3: broken CSV (unexpected end of data")
    assert reason(file(tmp_path, "", "rows.csv")).startswith(":1: the file is empty")
    path = file(tmp_path, "prompt,responses,ranks\nb,\"['c', 'd']\",\"[1, 2]\"\n", "rows.csv")
    with pytest.raises(DataError, match='rows.csv:2: column "responses" must be a list or an object, written as JSON'):
        read_rows(path, RankedComparison)


@pytest.mark.parametrize(
    "content",
    [
        '\ufeffprompt;user\r\n"a;b";u1\r\n',
        'sep=;\nprompt;user\n"a;b";u1\n',
        'prompt\tuser\n"a;b"\tu1\n',
        'prompt,user\n"a;b",u1\n',
        'prompt;"use\nless";user\n"a;b";;u1\n',
    ],
)
def test_semicolons_and_tabs(tmp_path: Path, content: str):
    (row,) = read_rows(file(tmp_path, content, "rows.csv"), PromptRow)
    assert row == PromptRow("a;b", "u1")


def test_one_column_needs_no_delimiter(tmp_path: Path):
    assert read_rows(file(tmp_path, "prompt\na;b\n", "rows.csv"), PromptRow)[0].prompt == "a;b"
    assert reason(file(tmp_path, "prompt\na,b\n", "rows.csv")).startswith(":2: 2 cells for the 1 columns")


def test_a_header_of_many_columns_is_checked_at_once(tmp_path: Path):
    names = ",".join(f"column{number}" for number in range(100_000))
    path = file(tmp_path, f"prompt,{names}\na{',' * 100_000}\n", "rows.csv")
    start = time.monotonic()
    assert read_rows(path, PromptRow)[0].prompt == "a"
    assert time.monotonic() - start < 10  # compared with each other they take minutes
    assert reason(file(tmp_path, f"prompt,{names},prompt\n", "rows.csv")).startswith(
        ':1: the header names column "prompt" twice'
    )


def test_a_tsv_file_has_tabs_whatever_its_header_looks_like(tmp_path: Path):
    path = tmp_path / "rows.tsv"
    path.write_text("prompt\tfrom, to\nHello, you\ta, b\n")
    assert [(row.prompt, row.extra) for row in read_rows(path, PromptRow)] == [("Hello, you", {"from, to": "a, b"})]
