"""Rounds against one long run: what a seed's result says, and its row on the pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evidence import rounds_table
from evidence.rounds import accuracy_difference, in_one_round, parse, result
from evidence.rounds_table import cells, markdown, rounds_results
from lit_instruct.errors import UserError

ROWS = [{"ranks": [1, 2], "rewards": [1.0, 0.0]}] * 20
WRONG = [{"ranks": [1, 2], "rewards": [0.0, 1.0]}] * 10 + ROWS[:10]


def write_runs(folder: Path, gain: float) -> None:
    """What the runs of a seed leave."""
    for name, place, more in (("rounds", "rounds/round-1", gain), ("single", "single/round-0", 0.0)):
        logs = folder / place / "ppo/logs"
        logs.mkdir(parents=True)
        rows = [
            {"prompt": f"p{i}", "iteration": at, "kl": float(at), "labeler": 0.1 * at + more + 0.01 * i}
            for at in (1, 2)
            for i in range(8)
        ]
        (logs / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        record = {"rounds": [{"round": 0}, {"round": 1}], "matrix": [[None, None]] * 2}
        (folder / name / "rounds.json").write_text(json.dumps(record))


@pytest.mark.parametrize(("gain", "said"), [(0.2, "reach the goal"), (0.05, "miss the goal")])
def test_the_verdict_follows_the_goals(tmp_path: Path, gain: float, said: str) -> None:
    write_runs(tmp_path, gain)
    found = result(tmp_path, 3, 2, {"first": WRONG, "last": ROWS})
    assert found["equal_kl"]["mean"] == pytest.approx(gain, abs=1e-4) and found["equal_kl"]["kl"] == 2.0
    assert said in found["verdict"]
    assert "orders 0.50 of the pairs as labelled, visibly lower than the last one's 1.00" in found["verdict"]
    assert found["curves"]["single"] == {"iteration": [1, 2], "kl": [1.0, 2.0], "labeler": [0.135, 0.235]}
    assert found["machine"]["cpu_cores"]


def test_the_difference_of_accuracies_is_paired() -> None:
    found = accuracy_difference(ROWS, WRONG, 0)
    assert found["mean"] == 0.5 and 0.2 < found["ci_low"] < 0.5 < found["ci_high"] < 0.8


def test_the_single_run_has_as_many_comparisons_and_episodes() -> None:
    options = {
        "prompts": {"per_round": 120},
        "stages": {"ppo_options": ["--model.iterations=20", "--model.iterations=10"]},
    }
    words = in_one_round({"made_from": {"options": options}, "rounds": [{}, {}, {}]})
    assert words == ["--rounds=1", "--prompts.per_round=360", "--stages.ppo_options+=--model.iterations=30"]


def test_further_options_are_those_of_iterate() -> None:
    given = parse(["--seeds", "3", "--rounds=2", "--stages.eval_options=[--limit=8]"])
    assert (given.seeds, given.options) == ([3], ["--rounds=2", "--stages.eval_options=[--limit=8]"])


def made_up(seed: int) -> dict[str, Any]:
    """A result as far as the pages read it."""
    gain = {"kl": 1.5, "mean": -0.02, "ci_low": -0.1, "ci_high": 0.06, "ours": 0.1, "theirs": 0.12}
    last = {"first": {"value": 0.55}, "last": {"value": 0.7}}
    return {"seed": seed, "equal_kl": gain, "last_policy": last, "seconds": 2000.0, "verdict": "It misses the goal."}


def test_the_pages_have_a_row_for_each_seed(tmp_path: Path) -> None:
    assert "Not measured yet" in markdown(rounds_results(tmp_path))
    for seed in (0, 1):
        (tmp_path / f"rounds-{seed}.json").write_text(json.dumps(made_up(seed)))
    text = markdown(rounds_results(tmp_path))
    minus = "\N{MINUS SIGN}"
    assert f"| 1 | 1.50 | +0.10 | +0.12 | {minus}0.02 ({minus}0.10 to +0.06) | 0.55 | 0.70 | 33 min |" in text
    assert "- seed 0: It misses the goal." in text
    assert cells(made_up(0) | {"equal_kl": None})[1:5] == ["-"] * 4
    (tmp_path / "rounds-2.json").write_text("{}")
    with pytest.raises(UserError, match=r"rounds-2\.json: not a result"):
        rounds_results(tmp_path)


def test_committed_results_can_be_read() -> None:
    assert all(one["verdict"] for one in rounds_results(rounds_table.RESULTS))
