"""Curves from a pool of samples and from the validations of PPO."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evidence.curves import Start, best_of_n_curve, ppo_curve, read_pool, start_of
from lit_instruct.errors import UserError


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_pool_keeps_as_many_responses_as_every_prompt_has(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "responses": ["x", "y", "z"], "ranks": [1, 2, 3], "scores": [0.3, 0.2, 0.1]},
        {"prompt": "b", "responses": ["u", "v"], "ranks": [2, 1], "scores": [0.5, 0.6]},
    ]
    pool = read_pool(written(tmp_path / "pool.jsonl", rows))
    assert pool.prompts == ["a", "b"]
    assert pool.responses == [["x", "y"], ["u", "v"]]
    assert pool.gold.tolist() == [[0.3, 0.2], [0.5, 0.6]]


def test_best_of_n_by_hand() -> None:
    proxy, gold = np.array([[0.0, 2.0], [4.0, 2.0]]), np.array([[1.0, 5.0], [3.0, 9.0]])
    curve = best_of_n_curve(proxy, gold, (1, 2))
    unit = math.sqrt(2.0)  # of 0, 2, 4, 2
    assert curve.kl.tolist() == pytest.approx(np.array([[0.0, 0.0], [math.log(2) - 0.5] * 2]))
    assert curve.proxy == pytest.approx(np.array([[0, 0], [(2 - 1) / unit, (4 - 3) / unit]]))
    assert curve.gold == pytest.approx(np.array([[0, 0], [5 - 3, 3 - 6]]))


def test_the_unit_of_a_constant_proxy_is_one() -> None:
    assert start_of(np.zeros((2, 3)), np.ones((2, 3))).unit == 1.0


def validations(*rows: tuple[int, str, float, float, float]) -> list[dict[str, Any]]:
    names = ("iteration", "prompt", "kl", "reward", "labeler")
    return [dict(zip(names, row, strict=True)) | {"response": "text"} for row in rows]


def test_validations_in_any_order_become_tables_of_iterations_and_prompts(tmp_path: Path) -> None:
    rows = validations(
        (8, "b", 4.0, 3.0, 0.9), (8, "a", 2.0, 1.0, 0.7), (4, "a", 1.0, 0.0, 0.5), (4, "b", -0.5, 2.0, 0.6)
    )
    start = Start(np.array([0.0, 1.0]), np.array([0.5, 0.5]), 2.0)
    curve = ppo_curve(written(tmp_path / "samples.jsonl", rows), ["a", "b"], start)
    assert curve.kl.tolist() == [[1.0, -0.5], [2.0, 4.0]]
    assert curve.proxy == pytest.approx(np.array([[0.0, 0.5], [0.5, 1.0]]))
    assert curve.gold == pytest.approx(np.array([[0.0, 0.1], [0.2, 0.4]]))


@pytest.mark.parametrize(
    "rows",
    [
        [(4, "a", 0.0, 0.0, 0.0)],
        [(4, "a", 0.0, 0.0, 0.0), (4, "c", 0.0, 0.0, 0.0)],
        [(4, "a", 0.0, 0.0, 0.0), (4, "b", 0.0, 0.0, 0.0), (4, "b", 0.0, 0.0, 0.0)],
    ],
)
def test_validations_without_every_prompt_are_refused(tmp_path: Path, rows: list[Any]) -> None:
    start = Start(np.zeros(2), np.zeros(2), 1.0)
    with pytest.raises(UserError, match="each of the 2 prompts once"):
        ppo_curve(written(tmp_path / "samples.jsonl", validations(*rows)), ["a", "b"], start)
