"""Leases and answers of one store: nobody gets another's task, nothing counts twice, everything can be taken back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.labeling.answers import Answer, RefusedError, Rules, record, renew, take_back
from lit_instruct.labeling.labelers import labeler_of
from lit_instruct.labeling.leases import CURRENT, OPEN, REPEAT_AFTER, REPEATED, lease_next
from lit_instruct.labeling.rankings import rankings
from lit_instruct.labeling.shown import next_shown
from lit_instruct.labeling.store import Store
from lit_instruct.labeling.tasks import Shares, shown_order
from tests.lit_instruct.labeling.helpers import ALONE, FLAGS, make_store, rank_all, tasks

RULES = Rules(seed=0, flags=FLAGS, lease_seconds=60)


class Desk:
    """A store, and two labelers with their numbers."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        with self.store.writing() as connection:
            self.ada, self.ben = (labeler_of(connection, name) for name in ("Ada", "Ben"))

    def next(self, labeler: int, now: float = 0.0) -> Any:
        with self.store.writing() as connection:
            return next_shown(connection, labeler, RULES, now)["task"]

    def answer(self, labeler: int, slot: int, key: str, now: float = 0.0, **more: Any) -> int:
        given = {"kind": "ranking", "seconds": 1.0, "ranks": (1, 2, 3, 4)} | more
        with self.store.writing() as connection:
            return record(connection, labeler, Answer(slot, key, **given), RULES, now)

    def undo(self, labeler: int, key: str, now: float = 0.0) -> int:
        with self.store.writing() as connection:
            return take_back(connection, labeler, key, RULES, now)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(make_store(tmp_path / "rankings.db", tasks(3)))
    yield found
    found.store.close()


def test_a_labeler_keeps_the_task_and_another_gets_another(desk: Desk) -> None:
    first = desk.next(desk.ada)
    assert desk.next(desk.ada) == first  # a second tab, or the page loaded again
    assert desk.next(desk.ben)["slot"] != first["slot"]


def test_a_task_comes_back_when_its_time_ends(desk: Desk) -> None:
    slot = desk.next(desk.ada, now=0)["slot"]
    assert desk.next(desk.ben, now=59)["slot"] != slot
    desk.answer(desk.ben, desk.next(desk.ben, now=59)["slot"], "key-1")
    assert desk.next(desk.ben, now=61)["slot"] == slot
    with pytest.raises(RefusedError, match="another labeler got it") as refused:
        desk.answer(desk.ada, slot, "key-2", now=62)
    assert refused.value.conflict
    desk.answer(desk.ben, slot, "key-3", now=62)


def test_an_ended_lease_that_nobody_took_is_still_the_labelers(desk: Desk) -> None:
    slot = desk.next(desk.ada, now=0)["slot"]
    assert desk.next(desk.ada, now=1e6)["slot"] == slot
    desk.answer(desk.ada, slot, "key-1", now=2e6)


def test_a_renewed_lease_lasts_longer(desk: Desk) -> None:
    slot = desk.next(desk.ada, now=0)["slot"]
    with desk.store.writing() as connection:
        renew(connection, desk.ada, slot, RULES, now=50)
    assert desk.next(desk.ben, now=100)["slot"] != slot
    with pytest.raises(RefusedError), desk.store.writing() as connection:
        renew(connection, desk.ben, slot, RULES, now=100)


def test_the_same_key_saves_once_and_another_key_not_again(desk: Desk) -> None:
    slot = desk.next(desk.ada)["slot"]
    event = desk.answer(desk.ada, slot, "key-1")
    assert desk.answer(desk.ada, slot, "key-1") == event
    with pytest.raises(RefusedError, match="saved this task already, perhaps in another tab"):
        desk.answer(desk.ada, slot, "key-2")
    with pytest.raises(RefusedError, match="key belongs to another answer"):
        desk.answer(desk.ben, desk.next(desk.ben)["slot"], "key-1")
    assert len(rankings(desk.store)) == 1


def test_ranks_are_stored_in_the_order_of_the_store_and_dense(desk: Desk) -> None:
    shown = desk.next(desk.ada)
    order = shown_order(0, desk.ada, shown["slot"], 4)
    assert shown["responses"] == [f"Response 1.{number}" for number in order]
    desk.answer(
        desk.ada, shown["slot"], "key-1", ranks=(4, 2, 2, 1), quality=(7, None, 1, 2), flags=([], [FLAGS[1]], [], [])
    )
    (found,) = rankings(desk.store)
    assert [found.ranks[number] for number in order] == [3, 2, 2, 1]
    assert found.quality is not None and [found.quality[number] for number in order] == [7, None, 1, 2]
    assert found.flags is not None and [found.flags[number] for number in order] == [[], [FLAGS[1]], [], []]
    assert (found.labeler, found.texts, found.columns) == ("Ada", [f"Response 1.{i}" for i in range(4)], {"user": "u1"})


def test_labelers_see_the_responses_in_orders_of_their_own() -> None:
    orders = {tuple(shown_order(0, labeler, 1, 4)) for labeler in range(40)}
    assert len(orders) > 12
    assert shown_order(0, 1, 1, 9) == shown_order(0, 1, 1, 9) != shown_order(1, 1, 1, 9)
    first = [shown_order(5, labeler, slot, 4)[0] for labeler in range(20) for slot in range(50)]
    assert all(200 <= first.count(number) <= 300 for number in range(4))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"ranks": (1, 2, 3)}, "each of the 4 responses a rank from 1 to 4"),
        ({"ranks": (1, 2, 3, 5)}, "from 1 to 4"),
        ({"ranks": (0, 1, 2, 3)}, "from 1 to 4"),
        ({"quality": (8, 1, 1, 1)}, "from 1 to 7"),
        ({"quality": (1, 1)}, "from 1 to 7"),
        ({"flags": (["nonsense"], [], [], [])}, "no flag 'nonsense'"),
        ({"flags": ([],)}, "flags for each of the 4"),
        ({"comparisons": ((0, 1, 1),)}, "comparisons do not give this ranking"),
        ({"comparisons": ((0, 4, -1),)}, "comparisons do not give this ranking"),
        ({"kind": "cannot_judge", "reason": "  "}, "Say in a few words"),
    ],
)
def test_a_wrong_answer_changes_nothing(desk: Desk, more: dict[str, Any], said: str) -> None:
    slot = desk.next(desk.ada)["slot"]
    with pytest.raises(RefusedError, match=said):
        desk.answer(desk.ada, slot, "key-1", **more)
    assert rankings(desk.store) == []
    assert desk.next(desk.ada)["slot"] == slot


def test_an_answer_that_is_taken_back_can_be_given_again(desk: Desk) -> None:
    first = desk.next(desk.ada)
    desk.answer(desk.ada, first["slot"], "key-1", ranks=(2, 1, 1, 3))
    second = desk.next(desk.ada)
    assert desk.undo(desk.ada, "undo-1") == first["slot"]
    assert desk.undo(desk.ada, "undo-1") == first["slot"]  # repeated: the same one
    assert rankings(desk.store) == []
    assert desk.next(desk.ada) == first | {"earlier": {"ranks": [2, 1, 1, 3]}}
    assert desk.next(desk.ben)["slot"] == second["slot"]  # released
    desk.answer(desk.ada, first["slot"], "key-2")
    with pytest.raises(RefusedError, match="nothing to take back"):
        desk.undo(desk.ben, "undo-2")
    assert [one.labeler for one in rankings(desk.store)] == ["Ada"]


def test_a_skipped_task_goes_to_others_and_can_be_taken_back(desk: Desk) -> None:
    slot = desk.next(desk.ada)["slot"]
    desk.answer(desk.ada, slot, "key-1", kind="skip")
    assert desk.next(desk.ada)["slot"] != slot
    assert desk.undo(desk.ada, "undo-1") == slot
    assert desk.next(desk.ada)["slot"] == slot
    desk.answer(desk.ada, slot, "key-2", kind="skip")
    assert desk.next(desk.ben)["slot"] == slot
    with pytest.raises(RefusedError, match="Another labeler has the task that you skipped"):
        desk.undo(desk.ada, "undo-2")


def test_cannot_judge_answers_the_task_without_a_ranking(desk: Desk) -> None:
    slot = desk.next(desk.ada)["slot"]
    desk.answer(desk.ada, slot, "key-1", kind="cannot_judge", reason="not my subject")
    assert desk.next(desk.ben)["slot"] != slot
    assert rankings(desk.store) == []
    desk.undo(desk.ada, "undo-1")
    assert desk.next(desk.ada)["earlier"] == {"reason": "not my subject"}


def test_events_are_never_changed_or_removed(desk: Desk) -> None:
    desk.answer(desk.ada, desk.next(desk.ada)["slot"], "key-1")
    for statement in ("DELETE FROM events", "UPDATE events SET seconds = 0"):
        with pytest.raises(sqlite3.IntegrityError, match="events are never"), desk.store.writing() as connection:
            connection.execute(statement)
    assert len(rankings(desk.store)) == 1


def test_shared_tasks_go_to_several_and_repeated_ones_to_one_labeler_twice(tmp_path: Path) -> None:
    path = make_store(tmp_path / "rankings.db", tasks(40), Shares(share=0.1, labelers=3, repeated=0.05))
    store = Store(path)
    for name in ("Ada", "Ben", "Cy"):
        rank_all(store, name, lambda task, k: list(range(1, k + 1)), limit=10)
    for name in ("Ada", "Ben", "Cy", "Di"):
        rank_all(store, name, lambda task, k: list(range(1, k + 1)))
    by_task: dict[int, list[str]] = {}
    for one in rankings(store):
        by_task.setdefault(one.task, []).append(one.labeler)
    store.close()
    assert sorted(map(len, by_task.values())) == [1] * 34 + [2] * 2 + [3] * 4
    assert all(len(set(names)) == (3 if len(names) == 3 else 1) for names in by_task.values())


def test_a_repeated_task_comes_later_in_another_order(tmp_path: Path) -> None:
    store = Store(make_store(tmp_path / "rankings.db", tasks(20), Shares(share=0, repeated=0.05)))
    rank_all(store, "Ada", lambda task, k: list(range(1, k + 1)))
    order = [one.task for one in rankings(store)]
    (again,) = [one for one in rankings(store) if one.repeated]
    store.close()
    at = [place for place, task in enumerate(order) if task == again.task]
    assert len(order) == 21 and len(at) == 2
    assert at[1] - at[0] > REPEAT_AFTER or at[1] == 20


def test_leasing_finds_nothing_when_all_is_ranked(desk: Desk) -> None:
    assert rank_all(desk.store, "Ada", lambda task, k: [1] * k) == 3
    with desk.store.writing() as connection:
        assert lease_next(connection, desk.ben, 0, 60) is None


@pytest.mark.parametrize("query", [CURRENT, REPEATED, OPEN])
def test_leasing_never_reads_a_whole_table(desk: Desk, query: str) -> None:
    """With 10,000 tasks, one scan of the events for each open slot takes a sixth of a second."""
    with desk.store.reading() as connection:
        values = {"labeler": desk.ada, "now": 0, "after": 0}
        plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]
    assert [step for step in plan if step.startswith("SCAN") and "INDEX" not in step] == []


def test_shares_of_nothing(tmp_path: Path) -> None:
    store = Store(make_store(tmp_path / "rankings.db", tasks(7), ALONE))
    with store.reading() as connection:
        assert connection.execute("SELECT count(*) FROM slots").fetchone()[0] == 7
    store.close()
