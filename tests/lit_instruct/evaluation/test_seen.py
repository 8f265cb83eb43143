"""Prompts that a stage trained on are left out or named, and never called held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.errors import UserError
from lit_instruct.evaluation.compare import evaluate
from lit_instruct.evaluation.options import EvalOptions
from lit_instruct.evaluation.seen import name_of_prompts, told_of_seen
from tests.lit_instruct.evaluation.runs import change, fake_loaders, trained_on, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo")


def report_of(run: Path, **more: Any) -> dict[str, Any]:
    return evaluate(EvalOptions(str(run), str(run / "prompts.jsonl"), best_of=2, **more), fake_loaders([]))


def test_prompts_of_the_training_data_are_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained_on(run / "sft", ["Is it  good?", "something else"])  # white space does not count
    trained_on(run / "ppo", [[{"role": "user", "content": "Is it good?"}], "What costs $5 or $6?"])
    report = report_of(run)
    assert report["prompts"] == 2 and report["seen"]["held_out"]
    assert report["seen"]["in_training_data"] == {"sft": 1, "ppo": 2}
    assert report["warnings"][:2] == [
        "1 of 4 prompts were in sft's training data and are left out",
        "2 of 4 prompts were in ppo's training data and are left out",
    ]
    assert "2 held-out prompts: mean" in capsys.readouterr().out
    assert report["warnings"][0] in (run / "eval" / "report.html").read_text().replace("&#39;", "'")


def test_kept_prompts_are_not_called_held_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained_on(run / "rm", ["Is it good?"])
    report = report_of(run, seen="keep")
    assert report["prompts"] == 4 and not report["seen"]["held_out"]
    assert report["warnings"][0] == "1 of 4 prompts were in rm's training data: these are not held out"
    page = (run / "eval" / "report.html").read_text()
    assert "held-out prompts" not in page + capsys.readouterr().out
    assert "trained on by rm" in page
    samples = [json.loads(line) for line in (run / "eval" / "samples.jsonl").read_text().splitlines()]
    assert [sample.get("trained_on_by") for sample in samples] == [["rm"], None, None, None]


def test_a_limit_counts_what_is_left(run: Path) -> None:
    trained_on(run / "sft", ["Is it good?"])
    assert report_of(run, limit=3)["prompts"] == 3


def test_nothing_left_is_an_error(run: Path) -> None:
    rows = [json.loads(line)["prompt"] for line in (run / "prompts.jsonl").read_text().splitlines()]
    trained_on(run / "ppo", rows)
    with pytest.raises(UserError, match="all 4 prompts are in ppo's training data; .*--seen=keep"):
        report_of(run)
    assert report_of(run, seen="keep")["prompts"] == 4


def test_a_stage_of_an_earlier_version_does_not_know(run: Path) -> None:
    change(run / "sft", trained_prompts=None)
    (run / "ppo" / "trained_prompts.npy").unlink()
    report = report_of(run)
    assert report["seen"]["unknown"] == ["sft", "ppo"] and not report["seen"]["held_out"]
    assert report["warnings"][0].startswith("it is not known which prompts sft, ppo trained on")


def test_sentences() -> None:
    facts = {"given": 100, "in_training_data": {"sft": 12}, "left_out": False, "unknown": [], "held_out": False}
    assert told_of_seen(facts) == ["12 of 100 prompts were in sft's training data: these are not held out"]
    assert (name_of_prompts(facts), name_of_prompts(facts | {"held_out": True})) == ("prompts", "held-out prompts")
