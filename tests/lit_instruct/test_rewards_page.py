"""Tutorial 4: a reward with the answers in a column of the data, in runs of PPO; and the example of docs/rewards.md."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

from docs_site.runs import commands, write_files
from lit_instruct.cli import main
from lit_instruct.rollouts.reward_functions import function_scorer
from tests.lit_instruct.stages.helpers import FLOAT, QUICK, column

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "tutorials/verifiable.md").read_text(encoding="utf-8")
COMMANDS = commands(PAGE)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the example, with its files and its sums."""
    write_files(PAGE, tmp_path)
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


def test_the_example_of_the_page_of_rewards() -> None:
    code = (DOCS / "rewards.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["right_answer"](["What is 3 + 4?"] * 2, ["It is 7", "17"], [{"answer": 7}] * 2) == [1, 0]


def small_run(command: str, tiny_model: Path) -> float:
    """Runs a command of the page, shortened, and returns the mean reward."""
    small = ["--data.batch_size=4", "--model.iterations=1", "--model.objective.minibatches=1", "--data.limit=12"]
    small += ["--data.on_long=drop", "--data.validation_share=0.3", "--model.lora.top_layers=1"]
    small += ["--trainer.val_check_interval=1", "--model.sampling.max_new_tokens=8", f"--model.base={tiny_model}"]
    words = shlex.split(command)
    assert main([*words, *small, *FLOAT, *QUICK]) == 0
    log = Path(words[words.index("--run") + 1]) / "ppo/logs/metrics.csv"
    (judged,) = column(log, "val/labeler")
    assert 0 <= judged <= 1
    (reward,) = column(log, "ppo/reward")
    return reward


def test_the_healthy_run(tiny_model: Path) -> None:
    assert 0 <= small_run(COMMANDS[0], tiny_model) <= 1


@pytest.mark.slow
def test_the_sick_run(tiny_model: Path) -> None:
    assert small_run(COMMANDS[1], tiny_model) > 0
    assert len(COMMANDS) == 2
