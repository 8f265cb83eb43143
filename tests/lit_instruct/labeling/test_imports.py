"""Rankings from elsewhere become answers in a store: once each, beside a server, and out again as they came in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.cli import main
from lit_instruct.labeling.answers import Rules, take_back
from lit_instruct.labeling.exports import Format, rows_of
from lit_instruct.labeling.labelers import labeler_of
from lit_instruct.labeling.rankings import Ranked, rankings
from lit_instruct.labeling.shown import next_shown
from lit_instruct.labeling.store import Store
from lit_instruct.labeling.tasks import Shares, Task, Written
from tests.lit_instruct.labeling.helpers import FLAGS, Client, make_store, rank_all, serving, tasks
from tests.lit_instruct.test_cli import one_message

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
FORMATS: list[Format] = ["ranked", "trl", "nemo-rl", "argilla", "label-studio"]
ROW: dict[str, Any] = {"prompt": "Hi", "responses": ["a", "b", "c"], "ranks": [2, 1, 2], "labeler": "Ada"}


def _write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _import(store: Path, rows: Path, *words: str) -> int:
    return main(["rank", "import", f"--store={store}", f"--data.path={rows}", *words])


def _found(store: Path) -> list[Ranked]:
    opened = Store(store)
    found = rankings(opened)
    opened.close()
    return found


def _counts(store: Path) -> list[int]:
    opened = Store(store)
    with opened.reading() as connection:
        names = ("tasks", "responses", "labelers", "slots", "events")
        found = [connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names]
    opened.close()
    return found


def _using(store: Path, use: Callable[[Any], Any]) -> Any:
    opened = Store(store)
    with opened.writing() as connection:
        found = use(connection)
    opened.close()
    return found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "rankings.db"


@pytest.mark.parametrize("layout", FORMATS)
def test_an_export_comes_out_of_another_store_as_it_went_in(
    tmp_path: Path, store: Path, layout: Format, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two labelers, ties, and a second ranking of a task by the same labeler, which no export holds."""
    found = [*tasks(3, k=4), Task(MESSAGES, [*map(Written, "wxy"), Written("z", "runs/a", "1")], {"a": 1})]
    first = make_store(tmp_path / "first.db", found, Shares(share=0.75, labelers=2, repeated=0.25))
    for name, ranks in (("Ada", [2, 1, 1, 3]), ("Ben", [1, 2, 3, 4])):
        opened = Store(first)
        rank_all(opened, name, lambda task, k, ranks=ranks: ranks)
        opened.close()
    out = tmp_path / "out.json"
    out.write_text(json.dumps(rows := rows_of(_found(first), layout)))
    assert _import(store, out) == 0
    assert rows_of(_found(store), layout) == rows
    before = _counts(store)
    capsys.readouterr()
    assert _import(store, out) == 0
    assert "0 rankings" in (said := capsys.readouterr().out) and "were there already" in said
    assert _counts(store) == before
    if layout != "trl":  # whose pairs are tasks of their own
        before = _counts(first)
        assert _import(first, out) == 0
        assert _counts(first) == before


def test_our_rows_keep_everything_that_a_labeler_said(tmp_path: Path, store: Path) -> None:
    rows = [
        ROW | {"quality": [1, 7, None], "flags": [["x"], [], []], "seconds": 3.5, "use_case": "chat", "day": 1},
        ROW | {"labeler": "Ben", "scores": [0.5, 0.1, -2.0], "margin": [1.0, 0.0, 2.0], "use_case": "chat", "day": 2},
    ]
    assert _import(store, _write(tmp_path / "rows.jsonl", rows)) == 0
    assert rows_of(_found(store), "ranked") == [rows[0], {"day": 2} | rows[1]]


def test_tasks_are_matched_in_any_order_of_the_responses(tmp_path: Path, store: Path) -> None:
    """A conversation that a labeling tool knows as text is the same task."""
    make_store(store, [Task(MESSAGES, [Written("a", "runs/x"), Written("b"), Written("c")], {})])
    text = "system: Be brief.\n\nuser: Hi"
    row = {"prompt": text, "responses": ["c", "a", "b"], "ranks": [1, 2, 3], "flags": [["of c"], [], ["of b"]]}
    assert _import(store, _write(tmp_path / "rows.jsonl", [row]), "--labeler=Ada") == 0
    (one,) = _found(store)
    assert (one.prompt, one.texts, one.ranks) == (MESSAGES, ["a", "b", "c"], [2, 3, 1])
    assert one.flags == [[], ["of b"], ["of c"]] and one.responses[0].run == "runs/x"
    assert _counts(store) == [1, 3, 1, 1, 1]  # the open slot is answered


def test_a_pair_is_a_task_of_two(tmp_path: Path, store: Path) -> None:
    rows = [{"prompt": "Hi", "chosen": "b", "rejected": other} for other in ("a", "c")]
    assert _import(store, _write(tmp_path / "rows.jsonl", rows), "--labeler=Ada") == 0
    assert [(one.texts, one.ranks) for one in _found(store)] == [(["b", "a"], [1, 2]), (["b", "c"], [1, 2])]


def test_repetitions_of_a_text_are_left_out(tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        ROW | {"responses": ["a", "b", "a"], "flags": [["x"], [], ["y"]]},
        ROW | {"responses": ["a", "a", "a"], "ranks": [1, 1, 1]},
    ]
    assert _import(store, _write(tmp_path / "rows.jsonl", rows)) == 0
    (one,) = _found(store)
    assert (one.texts, one.ranks, one.flags) == (["a", "b"], [2, 1], [["x"], []])
    assert "1 rows have fewer than two different responses" in capsys.readouterr().out


def test_a_labelers_first_answer_stays(tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(store, tasks(1))
    opened = Store(store)
    rank_all(opened, "Ada", lambda task, k: [1, 2, 3, 4])
    opened.close()
    responses = [f"Response 1.{i}" for i in range(4)]
    row = {"prompt": "Prompt 1", "responses": responses, "ranks": [4, 3, 2, 1]}
    assert _import(store, _write(tmp_path / "rows.jsonl", [row]), "--labeler=Ada") == 0
    assert "1 left out, whose labeler has answered the task differently before" in capsys.readouterr().out
    assert [one.ranks for one in _found(store)] == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labeler": None}, "name the labeler with --labeler"),
        ({"labeler": "<b>"}, "the name '<b>' cannot be used"),
        ({"labeler": ["Ada"]}, 'field "labeler" must be a name'),
        ({"quality": [1, 2, 8]}, "a whole number from 1 to 7"),
        ({"quality": [1, True, 2]}, "a whole number from 1 to 7"),
        ({"flags": ["x", "y", "z"]}, "a list of names for each of the 3 responses"),
        ({"flags": [["x"], [], [1]]}, "a list of names for each of the 3 responses"),
        ({"seconds": -1}, 'field "seconds" must be a number from 0'),
        ({"seconds": "3"}, 'field "seconds" must be a number from 0'),
        ({"ranks": [1, 2]}, "2 ranks for 3 responses"),
        ({"ranks": [1, 2, 0]}, "must be whole numbers from 1"),
        ({"responses": ["a", "b", 3]}, "response 3"),
        ({"responses": ["a", "b", "\ud83d"]}, "half of a character"),
        ({"responses": [f"r{n}" for n in range(101)], "ranks": [1] * 101}, "a task has 100 at most"),
    ],
    ids=str,
)
@pytest.mark.parametrize("exists", [True, False], ids=["a store", "no store"])
def test_a_bad_row_is_named_and_nothing_imported(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], said: str, exists: bool
) -> None:
    rows = _write(tmp_path / "rows.jsonl", [ROW, ROW | change])
    before = _counts(make_store(store, tasks(1))) if exists else None
    assert _import(store, rows) == 2
    assert said in (message := one_message(capsys)) and "rows.jsonl:2: " in message
    assert (_counts(store) if store.exists() else None) == before


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        (["--labeler=../x"], json.dumps(ROW), "--labeler: the name '../x' cannot be used"),
        ([], '{"prompt": "Hi", "responses": ["a", "b"]}', '"ranks" is missing'),
        ([], "", "the file is empty"),
        (
            [],
            json.dumps(ROW | {"responses": ["a", "a", "a"], "ranks": [1, 1, 1]}),
            "no row has two different responses",
        ),
    ],
)
def test_what_is_no_ranking_makes_no_store(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str, said: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    assert _import(store, tmp_path / "rows.jsonl", *words) == 2
    assert said in one_message(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_store_that_cannot_be_written_stays_as_it_is(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(store, tasks(1))
    before = _counts(store)
    monkeypatch.setattr("lit_instruct.labeling.store.BUSY", 0.01)
    other = Store(store)
    with other.writing():
        assert _import(store, _write(tmp_path / "rows.jsonl", [ROW])) == 2
    other.close()
    assert "it cannot be written (database is locked); nothing was imported" in one_message(capsys)
    assert _counts(store) == before


def test_an_import_beside_the_page(tmp_path: Path, store: Path) -> None:
    """What a labeler has open is answered by their own import, and left alone by another's."""
    make_store(store, tasks(4))
    with serving(store) as address:
        ada, ben = Client(address, "Ada"), Client(address, "Ben")
        hers, his = (client.post("task", {})[1]["task"] for client in (ada, ben))
        rows = [
            {
                "prompt": task["prompt"][0]["text"],
                "responses": task["responses"],
                "ranks": [1, 2, 3, 4],
                "labeler": name,
            }
            for task, name in ((hers, "Ada"), (his, "Cy"))
        ]
        assert _import(store, _write(tmp_path / "rows.jsonl", rows)) == 0
        assert ada.rank(hers, "ada-key-1")[0] == 409
        assert ben.rank(his, "ben-key-1")[0] == 200
        assert [one.labeler for one in _found(store)] == ["Ada", "Cy", "Ben"]
        assert ada.post("task", {})[1]["task"]["prompt"][0]["text"] == "Prompt 4"  # Ben has the third


def test_an_imported_ranking_that_its_labeler_takes_back_stays_away(tmp_path: Path, store: Path) -> None:
    rows = _write(tmp_path / "rows.jsonl", [ROW | {"flags": [[], [FLAGS[0]], []]}])
    rules = Rules(flags=FLAGS)
    assert _import(store, rows) == 0

    def undo(connection: Any) -> Any:
        labeler = labeler_of(connection, "Ada")
        take_back(connection, labeler, "a-key-of-the-page", rules, 1.0)
        return next_shown(connection, labeler, rules, 2.0)["task"]

    shown = _using(store, undo)
    marks = zip(shown["responses"], shown["earlier"]["ranks"], shown["earlier"]["flags"], strict=True)
    assert {text: (rank, flags) for text, rank, flags in marks} == {"a": (2, []), "b": (1, [FLAGS[0]]), "c": (2, [])}
    before = _counts(store)
    assert _import(store, rows) == 0
    assert _counts(store) == before and _found(store) == []
