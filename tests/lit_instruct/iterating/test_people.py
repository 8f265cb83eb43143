"""Rounds that people rank: the page is served until everything is ranked, and again after it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_instruct.errors import UserError
from lit_instruct.iterating import people
from lit_instruct.iterating.options import PeopleOptions
from lit_instruct.iterating.people import is_ranked, ranked_by_people
from lit_instruct.labeling import serving
from lit_instruct.labeling.store import Store
from tests.lit_instruct.iterating.helpers import loop_options
from tests.lit_instruct.labeling.helpers import FLAGS, make_store, rank_all, tasks
from tests.lit_instruct.stages.helpers import Files, write_rows

ROWS = [{"prompt": f"p{i}", "responses": ["a", "b"], "runs": ["x", "y"], "held_out": i == 0} for i in range(3)]


def test_it_is_stopped_and_continued(
    trained: Path, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = loop_options(tmp_path, files, trained / "sft", labeler="people")
    write_rows(tmp_path / "samples.jsonl", ROWS)
    served: list[Path] = []

    def serve(store: Path, *_: Any) -> None:
        served.append(store)
        if len(served) == 1:
            raise KeyboardInterrupt
        opened = Store(store)
        rank_all(opened, "Ada", lambda task, k: [2, 1])
        opened.close()

    monkeypatch.setattr(people, "serve", serve)
    with pytest.raises(KeyboardInterrupt):
        ranked_by_people(tmp_path, options)
    rows = ranked_by_people(tmp_path, options)
    assert served == [tmp_path / "rankings.db"] * 2
    assert "3 of 3 rankings are missing; waiting for people" in capsys.readouterr().out
    assert [(row["prompt"], row["ranks"], row["labeler"], row["runs"]) for row in rows] == [
        (f"p{i}", [2, 1], "Ada", ["x", "y"]) for i in range(3)
    ]
    assert sorted(row["held_out"] for row in rows) == [False, False, True]
    assert ranked_by_people(tmp_path, options) == rows and len(served) == 2


def test_a_share_may_be_enough(trained: Path, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = loop_options(tmp_path, files, trained / "sft", labeler="people", people=PeopleOptions(enough=0.3))
    write_rows(tmp_path / "samples.jsonl", ROWS)

    def serve(store: Path, *more: Any) -> None:
        opened, done = Store(store), more[-1]
        assert not done(opened)
        rank_all(opened, "Ada", lambda task, k: [1, 2])
        assert done(opened) and is_ranked(opened, 1.0)
        opened.close()

    monkeypatch.setattr(people, "serve", serve)
    assert len(ranked_by_people(tmp_path, options)) == 3
    with pytest.raises(UserError, match="--people.enough=0"):
        PeopleOptions(enough=0.0)


def test_the_server_ends_when_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CHECKED_EVERY", 0.05)
    path = make_store(tmp_path / "rankings.db", tasks(3))
    looks: list[bool] = []

    def done(store: Store) -> bool:
        looks.append(is_ranked(store, 1.0))
        if len(looks) == 1:
            rank_all(store, "Ada", lambda task, k: [1] * k)
        return looks[-1]

    serving.serve(path, "127.0.0.1", 0, None, {"flags": FLAGS, "lease_seconds": 60}, 10, done)
    assert looks[0] is False and looks[-1] is True
