"""The example of docs/rewards.md: a reward with the answers in a column of the data, in a run of PPO."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest

from lit_instruct.cli import main
from lit_instruct.rollouts.reward_functions import function_scorer
from tests.lit_instruct.stages.helpers import FLOAT, QUICK, column

PAGE = (Path(__file__).parents[2] / "docs/rewards.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.S))
COMMAND = re.search(r"```sh\n.venv/bin/python make_sums.py\n.venv/bin/lit-instruct (.*?)\n```", PAGE)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the example, with its files and its sums."""
    for name, code in BLOCKS.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    runpy.run_path("make_sums.py")
    return tmp_path


def test_the_data() -> None:
    rows = [json.loads(line) for line in Path("sums.jsonl").read_text().splitlines()]
    assert len(rows) == 400
    assert all(row["prompt"].startswith("What is ") for row in rows)
    assert all(row["answer"] == sum(map(int, re.findall(r"\d+", row["prompt"]))) for row in rows)


@pytest.mark.parametrize("function", ["right_answer", "right_answer_for_trl"])
def test_the_reward(function: str) -> None:
    rows = [{"answer": 7}] * 5
    responses = ["7", "3 + 4 = 7.", "17", "seven", "7 or 8"]
    assert function_scorer(f"sums.{function}")(["What is 3 + 4?"] * 5, responses, rows) == [1, 1, 0, 0, 0]


def test_the_run(folder: Path, tiny_model: Path) -> None:
    assert COMMAND is not None
    words = [word for word in shlex.split(COMMAND[1]) if not word.startswith("--model.base")]
    small = ["--data.batch_size=4", "--model.iterations=1", "--model.objective.minibatches=1", "--data.limit=12"]
    small += ["--data.on_long=drop", "--data.validation_share=0.3"]
    assert main([*words, f"--model.base={tiny_model}", *small, *FLOAT, *QUICK]) == 0
    (reward,) = column(folder / "runs/sums/ppo/logs/metrics.csv", "ppo/reward")
    assert 0 <= reward + 1 <= 2  # a random model; at most the penalty of 1 for what is cut off
