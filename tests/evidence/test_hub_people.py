"""Groups of real people, and how a reward model orders their pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evidence import hub_people
from evidence.context import Context
from evidence.held_out_people import intervals
from evidence.hub_people import GROUPS, Sizes, accuracies, dealt, split, trained
from lit_instruct.errors import UserError


def row(post: int, worker: str, better: int = 0) -> dict[str, Any]:
    return {"prompt": f"p{post}", "responses": ["a", "b"], "ranks": [1 + better, 2 - better], "labeler": worker}


def test_people_are_dealt_by_how_much_they_compared() -> None:
    rows = [row(0, f"w{number}") for number in range(7) for _ in range(7 - number)] + [row(0, "")]
    groups = dealt(rows)
    assert [sorted({one["labeler"] for one in group}) for group in groups] == [
        ["w0", "w5"],
        ["w1", "w6"],
        ["w2"],
        ["w3"],
        ["w4"],
    ]
    assert sum(map(len, groups)) == 28


def test_nobody_learns_from_a_post_of_the_test() -> None:
    group = [row(number % 6, "w") for number in range(12)]
    train, test = split(group, Sizes(5, 3), {"p0", "p1"})
    assert len(train) == 5 and len(test) == 3
    assert not {one["prompt"] for one in train} & {"p0", "p1"} and {one["prompt"] for one in test} <= {"p0", "p1"}
    with pytest.raises(
        UserError, match="a group of people has 8 and 3 comparisons to learn from and to test on, not 9"
    ):
        split(group, Sizes(9, 3), {"p0", "p1"})


def test_accuracies_by_hand() -> None:
    rows = [row(0, f"w{group}", better) for group in range(GROUPS) for better in (0, 1)]
    first = [1.0, 0.0] * 10  # the first response is always better: half of the pairs are right
    own = [value for one in rows for value in ([1.0, 0.0] if one["ranks"][0] == 1 else [0.0, 1.0])]
    found = accuracies([first] * 4 + [own], rows, 1)
    assert found.accuracy.shape == (1, GROUPS, GROUPS, 2) and found.agreement is None
    assert found.accuracy[0, 0].tolist() == [[1.0, 0.0]] * GROUPS
    assert found.accuracy[0, 4].min() == 1.0
    assert intervals(found, n=20)["held_out"].mean == pytest.approx((4 * 0.5 + 1) / 5)


def test_a_reward_model_for_each_group_that_is_left_out(
    tmp_path: Path, hub_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []

    def run_stage(name: str, config: Path, run: Path, options: list[str]) -> None:
        given.append(options)
        (run / name).mkdir(parents=True)
        (run / name / "stage.json").write_text("{}")

    def scores(sft: Path, rewards: list[Path], prompts: list[str], texts: list[str]) -> np.ndarray:
        return np.array([[float(len(text)) for text in texts]] * len(rewards))

    monkeypatch.setattr(hub_people, "run_stage", run_stage)
    monkeypatch.setattr(hub_people, "reward_scores", scores)
    found = trained(Context(tmp_path / "runs", seeds=(0, 1)), tmp_path / "sft", Sizes(8, 4, ("--x=1",)))
    assert found.accuracy.shape == (2, 5, 5, 4) and 0 < found.accuracy.mean() < 1
    assert len(given) == 10 and all(options[-1] == "--x=1" for options in given)
    files = {options[1].removeprefix("--data.path=") for options in given}
    assert len(files) == 5 and all(len(Path(file).read_text().splitlines()) == 32 for file in files)
