"""Figures on tasks from answers that are known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from lit_instruct.evaluation.tasks.answers import Answers, answers_of
from lit_instruct.evaluation.tasks.figures import ALL, task_figures, task_pairs, task_rows

ONE = {
    "base": Answers([0, 5], {"acc": [1.0, 0.0], "log_prob": [-0.5, -1.5]}, 0.5),
    "ppo": Answers([0, 5], {"acc": [1.0, 0.0], "log_prob": [-1.0, -1.75]}, 0.5),
}
TWO = {"base": Answers([0], {"acc": [0.0]}, 0.25), "ppo": Answers([0], {"acc": [1.0]}, 0.25)}
TEXT = {"base": Answers([0], {"bits_per_byte": [1.0]}, None), "ppo": Answers([0], {"bits_per_byte": [1.25]}, None)}
ANSWERS = {name: {"one": ONE[name], "two": TWO[name], "text": TEXT[name]} for name in ("base", "ppo")}


def test_pairs_are_with_the_first_and_with_the_reference() -> None:
    assert task_pairs(["base", "sft", "ppo"], "sft", [("ppo", "sft")]) == [
        ("sft", "base"),
        ("ppo", "base"),
        ("ppo", "sft"),
    ]
    assert task_pairs(["a", "b"], None, [("b", "a")]) == [("b", "a")]
    assert task_pairs(["sft", "ppo"], "sft", [("ppo", "sft")]) == [("ppo", "sft")]


def test_means_and_paired_differences() -> None:
    figures = task_figures(ANSWERS, [("ppo", "base")], seed=0)
    one = figures["one"]
    assert one["questions"] == 2 and one["chance"] == 0.5
    assert one["measures"]["log_prob"]["base"]["mean"] == -1.0
    difference = one["measures"]["log_prob"]["ppo_minus_base"]
    assert difference == {"mean": -0.375, "ci_low": -0.5, "ci_high": -0.25}
    assert one["measures"]["acc"]["ppo_minus_base"]["mean"] == 0.0
    assert figures["text"]["measures"]["bits_per_byte"]["ppo_minus_base"]["mean"] == 0.25


def test_all_questions_with_choices_count_alike() -> None:
    together = task_figures(ANSWERS, [("ppo", "base")], seed=0)[ALL]
    assert together["questions"] == 3 and together["chance"] == pytest.approx((0.5 * 2 + 0.25) / 3)
    assert list(together["measures"]) == ["acc"]  # what all of these tasks have
    assert together["measures"]["acc"]["ppo_minus_base"]["mean"] == pytest.approx(1 / 3, abs=1e-6)


def test_rows_have_every_question() -> None:
    rows = task_rows(ANSWERS)
    assert rows[1] == {
        "task": "one",
        "question": 5,
        "base": {"acc": 0.0, "log_prob": -1.5},
        "ppo": {"acc": 0.0, "log_prob": -1.75},
    }
    assert [row["task"] for row in rows] == ["one", "one", "two", "text"]


def fake_task(kind: str, **fields: Any) -> Any:
    return SimpleNamespace(
        OUTPUT_TYPE=kind,
        doc_to_target=lambda doc: doc["gold"],
        doc_to_choice=lambda doc: doc["choices"],
        get_config=fields.get,
    )


def sample(gold: Any, scores: list[float], **more: Any) -> dict[str, Any]:
    doc = {"gold": gold, "choices": ["x", "y", "z"][: len(scores)]}
    one = {"doc_id": 3, "doc": doc, "filter": "none", "filtered_resps": [(score, False) for score in scores]}
    return one | {"metrics": ["acc", "f1"], "acc": 1.0, "f1": (0, 1)} | more


def test_log_prob_is_a_softmax_over_the_choices() -> None:
    scores = [math.log(0.2), math.log(0.1), math.log(0.1)]
    for gold, share in ((0, 0.5), ("y", 0.25), ([1, 2], 0.5), (True, 0.25)):
        found = answers_of(fake_task("multiple_choice"), [sample(gold, scores)])
        assert found.measures["log_prob"] == [pytest.approx(math.log(share))]
        assert found.measures["acc"] == [1.0] and "f1" not in found.measures  # which is no number per question
        assert found.questions == [3] and found.chance == pytest.approx(1 / 3)


def test_a_task_with_its_own_measure_has_no_log_prob() -> None:
    task = fake_task("multiple_choice", process_results=print)
    assert list(answers_of(task, [sample(0, [-1.0, -2.0])]).measures) == ["acc"]


def test_filters_are_measures_of_their_own() -> None:
    rows = [sample(0, [-1.0], filter=name, metrics=["exact_match"], exact_match=x) for name, x in (("s", 0), ("f", 1))]
    found = answers_of(fake_task("generate_until"), rows)
    assert found == Answers([3], {"exact_match (s)": [0.0], "exact_match (f)": [1.0]}, None)


def test_bits_per_byte() -> None:
    one = {"doc_id": 0, "doc": {}, "filter": "none", "filtered_resps": [-8 * math.log(2)], "target": "aé"}
    found = answers_of(fake_task("loglikelihood_rolling"), [one])
    assert found.measures == {"bits_per_byte": [pytest.approx(8 / 3)]}
