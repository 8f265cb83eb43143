"""Files of every kind: read as a stream, and a clear message with the place for each way to be broken."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.reading.bad_rows import BadRows
from data_modules.reading.files import MAX_LINE
from data_modules.reading.readers import read_source
from data_modules.rows import PromptRow, RankedComparison, read_rows, stream_rows
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


def test_bad_lines_of_json_lines(tmp_path: Path):
    lines = [
        '{"prompt": "a"}',
        '{"prompt": "b"',
        '{"prompt": ""}',
        '{"prompt": "c", "number": ' + "1" * 5000 + "}",
        "[" * 100_000,
        '{"text": "d"}',
        '{"prompt": "e"}',
    ]
    path = file(tmp_path, "\n".join(lines).encode() + b'\n{"prompt": "\xe9"}\n')
    assert reason(path) == ":2: broken JSON (Expecting ',' delimiter, column 15); correct the line"
    left, bad = skipped(path)
    assert left == ["a", "e"]
    assert [place for place, _ in bad] == [":2", ":3", ":4", ":5", ":6", ":8"]
    assert [text.split("; ")[0] for _, text in bad] == [
        "broken JSON (Expecting ',' delimiter, column 15)",
        'field "prompt" is empty',
        "a number with thousands of digits",
        "JSON that is nested too deeply",
        'field "prompt" is missing',
        "not UTF-8 text",
    ]


@pytest.mark.parametrize(
    ("name", "before", "after", "place"),
    [
        ("rows.jsonl", '{"prompt": "a"}\n{"prompt": "', '"}\n{"prompt": "b"}\n', ":2"),
        ("rows.csv", 'prompt\na\n"', '"\nb\n', ":3"),
        ("rows.csv", "prompt\na\n", "\nb\n", ":3"),
        ("rows.txt", "a\n", "\nb\n", ":2"),
    ],
)
def test_a_line_of_10_mb_is_refused_in_little_memory(tmp_path: Path, name: str, before: str, after: str, place: str):
    path = file(tmp_path, before + LONG + after, name)
    assert reason(path).startswith(f"{place}: ")
    assert "longer than 8 MiB" in reason(path) or "larger than field limit" in reason(path)
    tracemalloc.start()
    left, bad = skipped(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert left == ["a", "b"] and [one for one, _ in bad] == [place]
    assert peak < 6 * MAX_LINE


def test_an_item_of_10_mb_in_a_json_list(tmp_path: Path):
    path = file(tmp_path, '[{"prompt": "a"},\n{"prompt": "' + LONG + '"}]', "rows.json")
    assert reason(path).startswith(":2: ") and "an item longer than 8 MiB" in reason(path)
    path = file(tmp_path, '[{"prompt": "a"},\n{"prompt": "' + "x" * 2**20 + '"}, {"prompt": "b"}]', "rows.json")
    assert [len(prompt) for prompt in prompts(path)] == [1, 2**20, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"prompt": "a"}, ]', ":1: broken JSON ("),
        ('[{"prompt": "a"}\n{"prompt": "b"}]', ":2: broken JSON (Expecting ',' or ']')"),
        ('[{"prompt": "a"}\n', ":2: broken JSON (Expecting ',' or ']')"),
        ('[{"prompt": "a"},\n{"prompt": "b]', ":2: broken JSON (Unterminated string"),
        ('[{"prompt": "a"}]\n[]', ":2: broken JSON (text after the list's end)"),
        ('[{"prompt": "a"},\n 12]', ":2: expected a JSON object, found a number"),
        ("[]", ":1: the file is empty; it needs at least one row"),
        ("[" * 100_000, ":1: broken JSON (nested too deeply)"),
        ("[" + "1" * 5000 + "]", ":1: broken JSON (a number with thousands of digits)"),
        ('"prompt"', ":1: a .json file must hold a list of rows"),
        (b'[{"prompt": "a"},\n\n{"prompt": "\xe9"}]', ":3: not UTF-8 text"),
    ],
)
def test_broken_json_lists(tmp_path: Path, content: str | bytes, message: str):
    assert reason(file(tmp_path, content, "rows.json")).startswith(message)


def test_a_json_list_is_read_in_small_pieces_as_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    records = [{"prompt": f"é{number}\n", "n": [number, 1.5, None, {"a": "]}"}]} for number in range(50)]
    path = file(tmp_path, "\ufeff " + json.dumps(records, indent=1, ensure_ascii=False), "rows.json")
    whole = read_rows(path, PromptRow)
    monkeypatch.setattr("data_modules.reading.json_files.CHUNK", 3)
    pieces = read_rows(path, PromptRow)
    assert pieces == whole and [row.extra["n"][0] for row in whole] == list(range(50))
    assert [row.where for row in pieces] == [row.where for row in whole]


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


def test_parquet(tmp_path: Path):
    path = parquet(tmp_path, [{"prompt": "a"}, {"prompt": None}, {"prompt": "c"}])
    assert reason(path) == ':row 2: field "prompt" must not be null; correct the row'
    assert skipped(path) == (["a", "c"], [(":row 2", 'field "prompt" must not be null; correct the row')])


def test_bytes_that_are_no_text_in_parquet(tmp_path: Path):
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xe9")])
    texts = pa.chunked_array([["a"], broken])
    pq.write_table(pa.table({"prompt": texts}), tmp_path / "rows.parquet")
    assert reason(tmp_path / "rows.parquet") == ":row 2: not UTF-8 text; convert the file to UTF-8"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_parquet(tmp_path: Path, share: float):
    path = parquet(tmp_path, [{"prompt": f"prompt {number}"} for number in range(99)])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert reason(path).startswith(":row 1: no Parquet file, or a damaged one (")
    assert reason(path, on_bad_row="skip").startswith(":row 1: ")  # a damaged file is no bad row


def test_parquet_with_a_damaged_page(tmp_path: Path):
    path = parquet(tmp_path, [{"prompt": f"prompt {number}"} for number in range(99)])
    content = bytearray(path.read_bytes())
    content[40:60] = b"\xff" * 20
    path.write_bytes(content)
    assert "damaged" in reason(path) or "UTF-8" in reason(path)


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.gz", "rows.csv.gz", "rows.txt.gz"])
def test_truncated_gzip(tmp_path: Path, name: str):
    texts = [str(number**7) for number in range(999)]
    lines = [json.dumps({"prompt": text}) for text in texts]
    content = {"rows.jsonl.gz": "\n".join(lines), "rows.json.gz": f"[{','.join(lines)}]"}
    packed = gzip.compress(content.get(name, "\n".join(["prompt", *texts])).encode())
    for part in (packed[: len(packed) // 2], packed[:-4], packed[:-8] + b"\xff" * 8):
        path = file(tmp_path, part, name)
        assert re.match(r":\d+: the compressed file is damaged or cut off \(.*\); fetch it again", reason(path))
        assert ": the compressed file is damaged" in reason(path, on_bad_row="skip")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "rows.jsonl",
            gzip.compress(b"{}", mtime=0),
            ":1: this is gzip, though its name does not end in .gz; rename it to rows.",
        ),
        ("rows.jsonl.gz", b'{"prompt": "a"}', ":1: not gzip, though its name ends in .gz; rename it to rows.jsonl"),
        ("rows.jsonl", b"PAR1....", ":1: this is a Parquet file; rename it to rows.parquet"),
        ("rows.parquet.gz", gzip.compress(b"PAR1", mtime=0), ": a Parquet file is compressed inside; unpack this one"),
        ("rows.xlsx", b"", ": rows come as .jsonl, .ndjson, .json, .csv, .parquet, .txt; rename or convert the file"),
        ("rows.jsonl", '{"prompt": "a"}'.encode("utf-16"), ":1: not UTF-8 text; convert the file to UTF-8"),
        ("rows.jsonl.gz", b"", ":1: the file is empty; it needs at least one row"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, name: str, content: bytes, message: str):
    assert reason(file(tmp_path, content, name)).startswith(message)


def test_plain_text_is_one_prompt_a_line(tmp_path: Path):
    path = file(tmp_path, "a\n\n  b c\r\nd", "rows.txt")
    rows = read_rows(path, PromptRow)
    assert [row.prompt for row in rows] == ["a", "  b c", "d"]
    assert rows[1].where == f"{path}:3"
    odd = file(tmp_path, '{"prompt": "a"}\n', "rows.jsonl")
    assert prompts(odd, layout="text") == ['{"prompt": "a"}']
    with pytest.raises(DataError, match="rows.txt: rows come as .jsonl, .ndjson, .json, .csv, .parquet; rename"):
        read_rows(path, RankedComparison)


def test_a_folder(tmp_path: Path):
    file(tmp_path, '{"prompt": "a"}\n{"prompt": "b"}\n', "1.jsonl")
    (tmp_path / "more").mkdir()
    file(tmp_path / "more", "prompt\nc\n", "2.csv")
    parquet(tmp_path / "more", [{"prompt": "d"}])
    file(tmp_path, "read me", "README.md")
    file(tmp_path, "license", "LICENSE.txt")
    file(tmp_path, "hidden", ".hidden.jsonl")
    assert prompts(tmp_path) == ["a", "b", "c", "d"]
    assert read_rows(tmp_path, PromptRow)[2].where == f"{tmp_path}/more/2.csv:2"
    with pytest.raises(DataError, match=f"^{tmp_path}/none: no such file; check the path, or give a hub id"):
        read_rows(tmp_path / "none", PromptRow)


def test_only_the_rows_that_are_asked_for_are_read(tmp_path: Path):
    path = file(tmp_path, '{"prompt": "a"}\n' * 500 + "broken\n")
    assert len(list(islice(stream_rows(path, PromptRow), 400))) == 400


def test_nothing_left_after_skipping(tmp_path: Path):
    path = file(tmp_path, '{"prompt": ""}\n' * 3)
    assert reason(path, on_bad_row="skip") == (
        f': no row is left in it for training; the first bad row: {path}:1: field "prompt" is empty; '
        "fill it in or remove the row"
    )


def test_mixed_layouts_in_one_file(tmp_path: Path):
    lines = ['{"prompt": "a"}', '{"conversation": [{"role": "user", "content": "b"}]}', '{"text": "c"}']
    assert reason(file(tmp_path, "\n".join(lines))).startswith(':3: field "prompt" is missing; a row of format prompt')


class FakeHub:
    """Stands for the hub: knows one dataset."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows
        self.asked: list[Any] = []

    def load_dataset(self, name: str, config: str | None, **options: Any) -> Iterator[Any]:
        self.asked.append((name, config, options))
        for row in self.rows:
            if isinstance(row, Exception):
                raise row
            yield row


def test_a_hub_dataset_is_streamed(monkeypatch: pytest.MonkeyPatch):
    hub = FakeHub([{"prompt": "a"}, {"prompt": "b", "user": None}])
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    rows = read_rows("org/name:train", PromptRow)
    assert [(row.prompt, row.where) for row in rows] == [("a", "org/name:train:row 1"), ("b", "org/name:train:row 2")]
    prompts("org/na.me:con-fig:train[:10%]")
    prompts("org/name@refs/convert/parquet:con-fig:train")
    assert hub.asked == [
        ("org/name", None, {"split": "train", "revision": None, "streaming": True}),
        ("org/na.me", "con-fig", {"split": "train[:10%]", "revision": None, "streaming": True}),
        ("org/name", "con-fig", {"split": "train", "revision": "refs/convert/parquet", "streaming": True}),
    ]


def test_a_hub_dataset_that_breaks_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets, "load_dataset", FakeHub([{"prompt": "a"}, ConnectionError("gone")]).load_dataset)
    assert reason("org/name:train").startswith(": the hub cannot be reached (gone); save it as a file first")
    monkeypatch.setattr(datasets, "load_dataset", FakeHub([ValueError("Bad split: x")]).load_dataset)
    assert reason("org/name:x") == ":row 1: cannot be read from the hub (Bad split: x); check id and split"


def test_offline_without_a_fake():
    """Tests run with HF_HUB_OFFLINE=1."""
    with pytest.raises(DataError, match="^nobody/no-such-dataset:train: the hub cannot be reached .*; save it as a"):
        list(read_source("nobody/no-such-dataset:train"))
