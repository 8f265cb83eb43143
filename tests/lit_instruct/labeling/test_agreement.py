"""Agreement of labelers against numbers counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_instruct.judging.agreement import Agreed, agreement, compared, predicted
from lit_instruct.labeling.agreement import figures
from lit_instruct.labeling.rankings import Ranked, held_out, rankings
from lit_instruct.labeling.store import Store
from lit_instruct.labeling.tasks import Shares, Written
from tests.lit_instruct.labeling.helpers import make_store, rank_all, tasks


def _ranked(task: int, labeler: str, ranks: list[int]) -> Ranked:
    texts = [Written(f"{task}.{number}") for number in range(len(ranks))]
    return Ranked(task, labeler, ranks, "prompt", texts, {}, None, None, 10.0 * task, "", False)


@pytest.mark.parametrize(
    ("one", "other", "points", "pairs"),
    [
        ([1, 2, 3], [1, 2, 3], 3.0, 3),
        ([1, 2, 3], [3, 2, 1], 0.0, 3),
        ([1, 1, 2], [1, 2, 3], 2.5, 3),
        ([1, 1, 2], [1, 1, 2], 2.0, 2),
        ([1, 1], [1, 1], 0.0, 0),
        ([2, 1, 2, 3], [1, 2, 3, 3], 4.0, 6),
    ],
)
def test_pairs_counted_by_hand(one: list[int], other: list[int], points: float, pairs: int) -> None:
    assert compared(one, other) == compared(other, one) == Agreed(points, pairs)


def test_several_tasks_add_up_and_chance_is_a_half() -> None:
    assert agreement([([1, 2], [1, 2]), ([1, 2, 3], [3, 2, 1])]).share == 0.25
    assert agreement([]).share == 0.5


def test_rewards_against_ranks_leave_out_the_labelers_ties() -> None:
    assert predicted([0.3, 0.1, 0.2], [1, 3, 2]) == Agreed(3.0, 3)
    assert predicted([0.3, 0.1, 0.2], [1, 2, 2]) == Agreed(2.0, 2)
    assert predicted([0.3, 0.3, 0.5], [1, 2, 3]) == Agreed(0.5, 3)


FOUND = [
    _ranked(1, "Ada", [1, 2, 3]),
    _ranked(1, "Ben", [1, 2, 3]),
    _ranked(2, "Ada", [1, 2, 3]),
    _ranked(2, "Ben", [3, 2, 1]),
    _ranked(2, "Cy", [1, 2, 3]),
    _ranked(3, "Ada", [1, 2]),
    _ranked(3, "Ada", [1, 2]),
    _ranked(4, "Ben", [1, 2]),
    _ranked(4, "Ben", [2, 1]),
]


def test_figures_of_three_labelers() -> None:
    result = figures(FOUND, {"Cy"}, {1: [3, 2, 1], 2: [3, 2, 1], 3: [0, 1], 4: [1, 0]}, seed=0)
    shares = {name: one and (one["share"], one["pairs"], one["tasks"]) for name, one in result["agreement"].items()}
    assert shares == {
        "all": (0.5, 12, 2),
        "training": (0.5, 6, 2),
        "held_out": None,
        "training_with_held_out": (0.5, 6, 1),
    }
    assert result["self_agreement"]["share"] == 0.5 and result["labelers"]["Ada"]["self_agreement"]["share"] == 1.0
    assert result["labelers"]["Cy"]["self_agreement"] is None and result["labelers"]["Cy"]["held_out"]
    assert result["labelers"]["Ada"]["median_seconds"] == 25.0
    of_reward = result["reward_model"]
    assert of_reward["training"]["share"] == round((3 + 3 + 3 + 0 + 0 + 1) / 14, 4)
    assert of_reward["held_out"]["share"] == of_reward["labelers"]["Cy"]["share"] == 1.0
    assert [one["labelers"] for one in result["pairs_of_labelers"]] == [["Ada", "Ben"], ["Ada", "Cy"], ["Ben", "Cy"]]
    both = result["agreement"]["all"]
    assert both["ci_low"] <= 0.5 <= both["ci_high"]


def test_alpha_is_one_for_agreement_and_below_zero_for_the_contrary() -> None:
    """12 values, half of them -1: expected disagreement 2 * 6 * 6 / (12 * 11), observed 1."""
    same = figures([_ranked(1, "Ada", [1, 2, 3]), _ranked(1, "Ben", [1, 2, 3])], set(), None, 0)["alpha"]
    contrary = figures([_ranked(1, "Ada", [1, 2, 3]), _ranked(1, "Ben", [3, 2, 1])], set(), None, 0)["alpha"]
    assert same["value"] == 1.0
    assert contrary["value"] == round(1 - 132 / 72, 4)
    assert figures([_ranked(1, "Ada", [1, 2])], set(), None, 0)["alpha"] is None
    assert figures([_ranked(1, "Ada", [1, 1]), _ranked(1, "Ben", [1, 1])], set(), None, 0)["alpha"] is None


def test_who_is_held_out_follows_from_the_seed(tmp_path: Path) -> None:
    store = Store(make_store(tmp_path / "rankings.db", tasks(1), seed=3))
    names = [f"labeler {number}" for number in range(8)]
    drawn = held_out(store, names, 3)
    assert len(drawn) == 3 and drawn == held_out(store, names[::-1], 3)
    assert held_out(store, names, 0) == set()
    assert held_out(store, [*names, "late"], 3) - {"late"} <= drawn
    store.close()


def test_labelers_who_follow_the_texts_agree_and_others_do_not(tmp_path: Path) -> None:
    store = Store(make_store(tmp_path / "rankings.db", tasks(40), Shares(share=1.0, labelers=3, repeated=0)))
    rank_all(store, "Ada", lambda task, k: [*range(1, k + 1)])
    rank_all(store, "Ben", lambda task, k: [*range(1, k + 1)])
    rank_all(store, "Cy", lambda task, k: [*range(k, 0, -1)] if task % 2 else [*range(1, k + 1)])
    result = figures(rankings(store), set(), None, 0)
    store.close()
    shares = {tuple(one["labelers"]): one["share"] for one in result["pairs_of_labelers"]}
    assert shares == {("Ada", "Ben"): 1.0, ("Ada", "Cy"): 0.5, ("Ben", "Cy"): 0.5}
    cy = result["labelers"]["Cy"]["agreement"]
    assert 0.3 < cy["ci_low"] < 0.5 < cy["ci_high"] < 0.7
