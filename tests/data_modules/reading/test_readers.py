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

from data_modules.reading.files import MAX_LINE
from data_modules.reading.readers import read_source
from data_modules.rows import PromptRow, RankedComparison, read_rows, stream_rows
from lit_instruct.errors import DataError
from tests.data_modules.reading.files import LONG, file, parquet, prompts, reason, skipped


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
        (
            "rows.xlsx",
            b"",
            ": rows come as .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, .txt; rename or convert the file",
        ),
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
    with pytest.raises(
        DataError, match="rows.txt: rows come as .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow; rename"
    ):
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


def test_a_row_of_the_hub_that_is_no_row(monkeypatch: pytest.MonkeyPatch):
    long = {"prompt": "b", "pages": [{"text": "x" * 2**20}] * 9}
    monkeypatch.setattr(datasets, "load_dataset", FakeHub([{"prompt": "a"}, long]).load_dataset)
    assert reason("org/name:train").startswith(":row 2: the row is longer than 8 MiB, which is no row")


def test_a_hub_dataset_that_breaks_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets, "load_dataset", FakeHub([{"prompt": "a"}, ConnectionError("gone")]).load_dataset)
    assert reason("org/name:train").startswith(": the hub cannot be reached (gone); save it as a file first")
    monkeypatch.setattr(datasets, "load_dataset", FakeHub([ValueError("Bad split: x")]).load_dataset)
    assert reason("org/name:x") == ":row 1: cannot be read from the hub (Bad split: x); check id and split"


def test_offline_without_a_fake():
    """Tests run with HF_HUB_OFFLINE=1."""
    with pytest.raises(DataError, match="^nobody/no-such-dataset:train: the hub cannot be reached .*; save it as a"):
        list(read_source("nobody/no-such-dataset:train"))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.jsonl.gz", "rows.parquet"])
def test_a_pointer_of_git_lfs(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(DataError, match=f"{name}: a Git-LFS pointer rather than the file; run `git lfs pull`"):
        list(read_source(str(tmp_path / name)))
