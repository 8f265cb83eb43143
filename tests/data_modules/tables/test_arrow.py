"""Rows and items that come back from their file as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data_modules.rows import Demonstration, PromptRow, RankedComparison
from data_modules.tables.arrow import (
    LazyRows,
    number_rows,
    open_table,
    row_from_json,
    row_to_json,
    split_table,
    write_table,
)

MESSAGES: Any = [{"role": "user", "content": "naïve \U0001f600"}]


@pytest.mark.parametrize(
    "row",
    [
        PromptRow("a", user="u", use_case="chat", extra={"n": 1, "deep": {"x": [None, 1.5]}}),
        PromptRow(MESSAGES),
        Demonstration("a", "b", extra={"user": "u"}),
        RankedComparison("a", ["b", "c"], [2, 1], where="x:3"),
    ],
)
def test_row_round_trip(row: Any):
    assert row_from_json(row_to_json(row), type(row)) == row
    assert "x:3" not in row_to_json(row)


def rows(count: int) -> list[PromptRow]:
    return [PromptRow(f"p{i}", user=f"u{i}") for i in range(count)]


def table(path: Path, count: int, together: int = 3) -> Path:
    made = rows(count)
    items = [{"ids": list(range(i + 1)), "margin": [0.5], "deep": [[i], []]} for i in range(count)]
    batches = [(slice(start, start + together)) for start in range(0, count, together)]
    written = write_table(path, (([row_to_json(row) for row in made[b]], items[b]) for b in batches))
    assert written == count
    return path


def test_rows_and_items_come_back(tmp_path: Path):
    items, lazy = open_table(table(tmp_path / "t.arrow", 8), PromptRow)
    assert items[7] == {"ids": list(range(8)), "margin": [0.5], "deep": [[7], []]}
    assert str(items.data.schema.field("ids").type) == "list<item: int32>"
    assert str(items.data.schema.field("deep").type) == "list<item: list<item: int32>>"
    assert list(lazy) == rows(8)
    assert number_rows(items)["row_number"][:] == list(range(8))


def test_lazy_rows_are_a_sequence(tmp_path: Path):
    made, lazy = rows(600), open_table(table(tmp_path / "t.arrow", 600, 100), PromptRow)[1]
    assert len(lazy) == 600 and list(lazy) == made
    assert (lazy[0], lazy[-1], lazy[599]) == (made[0], made[-1], made[599])
    assert lazy[3:6] == made[3:6] and lazy[:2] == made[:2] and lazy[598:700] == made[598:] and lazy[5:5] == []
    assert lazy.take([5, 1, 5]) == [made[5], made[1], made[5]]
    assert made[4] in lazy
    with pytest.raises(IndexError):
        lazy[600]


def test_no_rows():
    empty: LazyRows[PromptRow] = LazyRows(None, PromptRow)
    assert len(empty) == 0 and list(empty) == [] and empty[:3] == []


def test_nothing_written_no_file(tmp_path: Path):
    assert write_table(tmp_path / "t.arrow", []) == 0
    assert list(tmp_path.iterdir()) == []


def test_split_keeps_the_order(tmp_path: Path):
    train = np.array([True, False, False, True, True, False, False, True])
    validation = np.array([False, True, False, False, False, False, True, False])
    whole = table(tmp_path / "all.arrow", 8)
    split_table(whole, {tmp_path / "a": train, tmp_path / "b": validation})
    made = rows(8)
    for name, mask in (("a", train), ("b", validation)):
        assert list(open_table(tmp_path / name, PromptRow)[1]) == [made[i] for i in np.flatnonzero(mask)]
    assert not whole.exists()


def test_split_of_everything_is_the_same_file(tmp_path: Path):
    whole = table(tmp_path / "all.arrow", 4)
    content = whole.read_bytes()
    split_table(whole, {tmp_path / "a": np.ones(4, dtype=bool), tmp_path / "b": np.zeros(4, dtype=bool)})
    assert (tmp_path / "a").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_split_of_no_table(tmp_path: Path):
    split_table(tmp_path / "none.arrow", {tmp_path / "a": np.zeros(0, dtype=bool)})
    assert list(tmp_path.iterdir()) == []


def test_values_that_do_not_fit_are_refused_rather_than_cut(tmp_path: Path):
    with pytest.raises(pa.ArrowInvalid):
        write_table(tmp_path / "t.arrow", [([row_to_json(PromptRow("a"))], [{"ids": [2**31]}])])
