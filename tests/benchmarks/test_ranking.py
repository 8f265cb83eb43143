"""What the benchmark of the labelers' page counts as lost, double and foreign."""

from __future__ import annotations

from pathlib import Path

from benchmarks.ranking import K, Labeler, compare, fill, make_store, ranks_by
from lit_instruct.labeling.rankings import rankings
from lit_instruct.labeling.store import Store
from tests.lit_instruct.labeling.helpers import rank_all


def _texts(task: int) -> list[str]:
    return [f"Response {task - 1}.{i}" for i in range(K)]


def _stored(path: Path, limit: int, honest: bool = True) -> tuple[Store, list[Labeler]]:
    """A store in which one labeler ranks, and the labeler with what they sent."""
    make_store(path, 4)
    store, labeler = Store(path), Labeler(0, "Ada")
    rank_all(store, "Ada", lambda task, k: ranks_by("Ada" if honest else "Eve", _texts(task)), limit)
    with store.reading() as connection:
        labeler.sent = [(row["key"], [], []) for row in connection.execute("SELECT key FROM events")]
    return store, [labeler]


def test_a_store_that_has_what_was_sent(tmp_path: Path) -> None:
    store, labelers = _stored(tmp_path / "rankings.db", 3)
    found = compare(rankings(store), labelers, store)
    store.close()
    assert found == {
        "sent": 3,
        "stored": 3,
        "lost": 0,
        "double": 0,
        "foreign": 0,
        "sent_again_without_an_answer": 0,
    }


def test_lost_double_and_foreign_rankings_are_counted(tmp_path: Path) -> None:
    store, (labeler,) = _stored(tmp_path / "rankings.db", 3, honest=False)
    labeler.sent = [*labeler.sent[1:], ("never-stored", [], [])]
    found = compare(rankings(store), [labeler], store)
    store.close()
    assert (found["lost"], found["double"], found["foreign"]) == (1, 1, 3)


def test_filling_answers_tasks_without_a_server(tmp_path: Path) -> None:
    make_store(tmp_path / "rankings.db", 4)
    fill(tmp_path / "rankings.db", 2)
    store = Store(tmp_path / "rankings.db")
    assert [one.labeler for one in rankings(store)] == ["filler", "filler"]
    store.close()
