"""Several sources in one path: their proportions, and the same mix for the same seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from data_modules.reading.sources import WeightedPath, mix, parse_sources
from data_modules.rows import PromptRow, read_rows, stream_rows
from lit_instruct.errors import UserError


def test_paths_and_weights():
    assert parse_sources("a.jsonl") == [WeightedPath("a.jsonl", None)]
    assert parse_sources(Path("a/b.jsonl")) == [WeightedPath("a/b.jsonl", None)]
    assert parse_sources("a.jsonl, org/name:train") == [
        WeightedPath("a.jsonl", None),
        WeightedPath("org/name:train", None),
    ]
    assert parse_sources("a.jsonl@3,org/name:train@0.5") == [
        WeightedPath("a.jsonl", 3.0),
        WeightedPath("org/name:train", 0.5),
    ]


def test_the_revision_of_a_hub_id_is_no_weight():
    pinned = "org/name@8049631c:train"
    assert parse_sources(f"{pinned},{pinned}") == [WeightedPath(pinned, None)] * 2
    assert parse_sources(f"{pinned}@2") == [WeightedPath(pinned, 2.0)]


def test_a_name_that_exists_is_one_path(tmp_path: Path):
    odd = tmp_path / "a,b@2.jsonl"
    odd.write_text('{"prompt": "a"}')
    assert parse_sources(odd) == [WeightedPath(str(odd), None)]
    assert parse_sources(f"{tmp_path}/c@d.jsonl@2")[0] == WeightedPath(f"{tmp_path}/c@d.jsonl", 2.0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a@0", "--data.path=a@0: '0' is no weight; write a number above 0 after the @"),
        ("a@nan,b@1", "'nan' is no weight"),
        ("a@inf", "'inf' is no weight"),
        ("a@b.jsonl", "'b.jsonl' is no weight"),
        ("a@1,b", "b has no weight; give every source one"),
        ("a,,b", "a path between the commas is empty"),
    ],
)
def test_impossible_weights(path: str, message: str):
    with pytest.raises(UserError) as error:
        parse_sources(path)
    assert message in str(error.value)


def test_without_weights_every_row_comes_once_in_order():
    assert list(mix([iter("ab"), iter("cd")], [None, None], seed=0)) == ["a", "b", "c", "d"]


def test_weights_are_proportions_to_the_end_and_no_row_comes_twice():
    mixed = list(mix([iter(range(3000)), iter(range(10_000, 13_000))], [3.0, 1.0], seed=1))
    share = sum(row < 10_000 for row in mixed) / len(mixed)
    assert abs(share - 0.75) < 0.03
    assert len(set(mixed)) == len(mixed)
    assert [row for row in mixed if row < 10_000] == list(range(3000))
    assert mixed == list(mix([iter(range(3000)), iter(range(10_000, 13_000))], [3.0, 1.0], seed=1))
    assert mixed != list(mix([iter(range(3000)), iter(range(10_000, 13_000))], [3.0, 1.0], seed=2))


def test_rows_of_two_layouts_are_mixed(tmp_path: Path):
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    one.write_text("".join(json.dumps({"prompt": f"one {n}"}) + "\n" for n in range(300)))
    messages = [{"role": "user", "content": "other"}]
    other.write_text(json.dumps({"messages": messages}) + "\n" + (json.dumps({"messages": messages}) + "\n") * 299)
    rows = list(stream_rows(f"{one}@1,{other}@2", PromptRow, seed=3))
    counts = Counter(str(row.where.rpartition(":")[0]) for row in rows)
    assert counts[str(other)] == 300 and 110 < counts[str(one)] < 190
    with pytest.raises(UserError, match="other.jsonlx: no such file"):
        list(stream_rows(f"{one},{other}x", PromptRow))


def test_forty_files(tmp_path: Path):
    files = [write_file(tmp_path / f"part-with-a-long-name-{number}.jsonl") for number in range(40)]
    assert len(read_rows(",".join(files), PromptRow)) == 40


@pytest.mark.parametrize(
    "name", ["x" * 300 + ".jsonl", "x/" * 3000 + ".jsonl", "x\0.jsonl", "org/" + "x" * 300 + ":train"]
)
def test_names_that_no_file_can_have(name: str):
    with pytest.raises(UserError, match="name too long|NUL character|cannot be reached|no such file"):
        read_rows(name, PromptRow)


def write_file(path: Path) -> str:
    path.write_text('{"prompt": "a"}\n')
    return str(path)
