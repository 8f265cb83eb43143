"""`lit-instruct rank`: making a store, looking at it, and taking the rankings out."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from data_modules.rows import RankedComparison, read_rows
from lit_instruct.cli import main
from lit_instruct.files import locked
from lit_instruct.labeling.store import Store
from lit_instruct.labeling.tasks import Shares
from lit_instruct.page_server.address import listening
from tests.lit_instruct.labeling.helpers import make_store, rank_all, tasks
from tests.lit_instruct.test_cli import one_message

ROWS: list[dict[str, Any]] = [
    {"prompt": "One", "responses": ["a", "b", "a"], "ranks": [2, 1, 2], "labeler": "old", "use_case": "chat"},
    {"prompt": "Two", "responses": ["same", "same"], "ranks": [1, 1]},
    {"prompt": [{"role": "user", "content": "Three"}], "responses": ["c", "d", "e"], "ranks": [1, 2, 3]},
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "rankings.db"


def _rank(store: Path, *words: object) -> int:
    return main(["rank", f"--store={store}", "--serve=false", *map(str, words)])


def _opened(path: Path, name: str = "Ada") -> int:
    opened = Store(path)
    done = rank_all(opened, name, lambda task, k: [1, 1, *range(2, k)])
    opened.close()
    return done


def test_rows_with_responses_are_ranked_again_and_exported(
    store: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _rank(store, f"--data.path={rows}", "--overlap.share=0") == 0
    assert "2 tasks, 2 rankings wanted; 1 prompts left out" in capsys.readouterr().out
    assert _opened(store) == 2
    assert main(["rank", "status", f"--store={store}"]) == 0
    out = capsys.readouterr().out
    assert "2 tasks, 2 of 2 rankings" in out and "Ada: 2 rankings" in out and "2.0 s a task" in out
    ranked = tmp_path / "ranked.jsonl"
    assert main(["rank", "export", f"--store={store}", f"--out={ranked}"]) == 0
    first, second = read_rows(ranked, RankedComparison)
    assert (first.prompt, first.responses, first.ranks) == ("One", ["a", "b"], [1, 1])
    assert first.extra == {"use_case": "chat", "seconds": 2.0, "labeler": "Ada"}
    assert (second.prompt, second.responses, second.ranks) == (ROWS[2]["prompt"], ["c", "d", "e"], [1, 1, 2])


def test_rows_without_ranks_are_taken(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "unranked.jsonl"
    path.write_text('{"prompt": "One", "responses": ["a", "b"]}\n')
    assert _rank(store, f"--data.path={path}") == 0
    assert _opened(store) == 1


def test_responses_are_sampled_from_a_stage(store: Path, run_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Hello", "user": "u"}\n{"prompt": "What is the sea?"}\n')
    more = ["--k=3", "--sampling.max_new_tokens=5", f"--data.path={prompts}", f"--run={run_folder / 'sft'}"]
    assert _rank(store, *more) == 0
    opened = Store(store)
    with opened.reading() as connection:
        found = connection.execute("SELECT run, version FROM responses").fetchall()
        columns = connection.execute("SELECT columns FROM tasks").fetchone()[0]
    opened.close()
    assert json.loads(columns) == {"user": "u"}
    assert {row["run"] for row in found} == {str(run_folder / "sft")}
    assert all(len(row["version"]) == 12 for row in found)
    assert _rank(store, *more) == 0  # the same command goes on


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--k=1", "--data.path={rows}"], "--k=1: a comparison needs at least 2 responses"),
        ([], "no such store; give --data.path"),
        (["--data.path={rows}", "--host=0.0.0.0"], "choose a secret for it with --token"),
        (["--data.path={rows}", "--token=short"], "--token: must be 16 to 200 letters"),
        (["--data.path={rows}", "--overlap.share=2"], "--overlap.share=2.0: must be between 0 and 1"),
        (["--data.path={rows}", "--overlap.labelers=1"], "--overlap.labelers=1"),
        (["--data.path={rows}", "--page.pairwise_from=11"], "must be between 2 and 10"),
        (["--data.path={rows}", "--page.flags=[a, a]"], "--page.flags"),
        (["--data.path={rows}", "--page.lease_minutes=0"], "--page.lease_minutes"),
        (["--data.path=missing.jsonl"], "missing.jsonl"),
        (["--data.path={rows}", "--data.limit=0"], "no prompt with two different responses is left"),
    ],
    ids=str,
)
def test_a_mistake_makes_no_store(
    store: Path, rows: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert _rank(store, *(word.format(rows=rows) for word in words)) == 2
    assert said in one_message(capsys)
    assert sorted(path.name for path in store.parent.iterdir()) == ["rows.jsonl"]


def test_a_bad_row_names_its_line(store: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows.write_text(rows.read_text() + '{"prompt": "x", "responses": ["a", 3], "ranks": [1, 2]}\n')
    assert _rank(store, f"--data.path={rows}") == 2
    assert "rows.jsonl:4" in one_message(capsys)
    assert not store.exists()


@pytest.mark.parametrize("words", [["--run=smollm2-135m-instruct"], ["--data.path={other}"], ["--seed=3"]])
def test_a_store_of_something_else_is_refused(
    store: Path, rows: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert _rank(store, f"--data.path={rows}") == 0
    other = rows.with_name("other.jsonl")
    other.write_text(rows.read_text())
    assert _rank(store, *(word.format(other=other) for word in words)) == 2
    assert "this store was made with --" in one_message(capsys)


def test_a_file_that_is_no_store_is_refused_and_stays(
    store: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rank", "status", f"--store={rows}"]) == 2
    assert "not a store of rankings" in one_message(capsys)
    assert main(["rank", "status", f"--store={store}"]) == 2
    assert "no such store" in one_message(capsys)
    assert json.loads(rows.read_text().splitlines()[0]) == ROWS[0]


def test_a_store_of_another_version_is_refused(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(store, tasks(1))
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE meta SET value = '\"99\"' WHERE name = 'version'")
    connection.close()
    for words in (["status"], ["export", f"--out={tmp_path / 'x.jsonl'}"]):
        assert main(["rank", *words, f"--store={store}"]) == 2
        assert "this store has version 99" in one_message(capsys)


def test_nothing_to_export(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(store, tasks(1))
    assert main(["rank", "export", f"--store={store}", f"--out={tmp_path / 'x.jsonl'}"]) == 2
    assert "it has no rankings yet" in one_message(capsys)
    assert main(["rank", "export", f"--store={store}", f"--out={tmp_path / 'no' / 'x.jsonl'}"]) == 2
    assert "no such folder" in one_message(capsys)


def test_labelers_held_out_go_into_a_file_of_their_own(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(store, tasks(9))
    for name in ("Ada", "Ben", "Cy"):
        opened = Store(store)
        rank_all(opened, name, lambda task, k: list(range(1, k + 1)), limit=3)
        opened.close()
    out = tmp_path / "ranked.jsonl"
    words = ["rank", "export", f"--store={store}", f"--out={out}"]
    assert main([*words, "--labelers.held_out=1"]) == 0
    kept, apart = (
        {row.extra["labeler"] for row in read_rows(path, RankedComparison)}
        for path in (out, tmp_path / "ranked-held-out.jsonl")
    )
    assert len(apart) == 1 and kept | apart == {"Ada", "Ben", "Cy"} and not kept & apart
    for count in (3, 4):
        assert main([*words, f"--labelers.held_out={count}"]) == 2
        assert "at least one must be left" in one_message(capsys)


def test_agreement_with_a_reward_model_is_written_as_json_and_html(
    store: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(store, tasks(6), Shares(share=1.0, labelers=3, repeated=0))
    for name in ("Ada", "Ben", "Cy"):
        _opened(store, name)
    assert main(["rank", "agreement", f"--store={store}", f"--reward={demo / 'rm'}", "--labelers.held_out=1"]) == 0
    assert "between labelers: 100.0 %" in capsys.readouterr().out
    found = json.loads((store.parent / "agreement.json").read_text())
    assert found["agreement"]["all"]["pairs"] == 6 * 3 * 5 and found["alpha"]["value"] == 1.0
    assert 0 <= found["reward_model"]["training"]["share"] <= 1 and found["reward_model"]["held_out"]["tasks"] == 6
    page = (store.parent / "agreement.html").read_text()
    assert "held-out labelers" in page and "100.0 %" in page and "Ada" in page


def test_two_servers_on_one_store_and_a_taken_port(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(store, tasks(1))
    with locked(store.with_name(f"{store.name}.lock"), "busy"):
        assert main(["rank", f"--store={store}"]) == 2
        assert "another server is serving this store" in one_message(capsys)
    with listening("127.0.0.1", 0) as taken:
        assert main(["rank", f"--store={store}", f"--port={taken.getsockname()[1]}"]) == 2
        assert "another program uses this port" in one_message(capsys)
    assert main(["rank", f"--store={store}", "--port=99999"]) == 2
    assert "--port=99999" in one_message(capsys)
