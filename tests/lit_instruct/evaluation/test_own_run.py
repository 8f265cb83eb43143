"""What an evaluation takes from its run: prompts, lengths and labelers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.errors import UserError
from lit_instruct.evaluation.compare import evaluate
from lit_instruct.evaluation.options import EvalOptions
from lit_instruct.handover import read_stage
from tests.lit_instruct.evaluation.runs import fake_loaders, write_run
from tests.lit_instruct.stages.helpers import Files, fit
from tests.lit_instruct.stages.helpers import run as command

OVERLAP = "lit_instruct.evaluation.references.overlap"
FORM = "lit_instruct.evaluation.labelers.form"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo")


def record(run: Path, **options: Any) -> None:
    """Changes the options that the PPO stage recorded."""
    path = run / "ppo" / "stage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"options": options}))


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_run_is_judged_by_its_own_reward_model_and_not_by_the_demos_labelers(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = evaluate(EvalOptions(str(run), str(run / "prompts.jsonl"), best_of=3), fake_loaders([]))
    used = report["options"]
    assert (used["labeler"], used["second_labeler"], used["max_new_tokens"]) == ("reward", FORM, 48)
    assert report["labeler"] == report["reward"]
    assert report["labeler"]["best_of_3"]["mean"] == 2.0  # the fake reward model counts exclamation marks
    assert report["second_labeler"]["sft"]["mean"] == 0.0  # finished, and nothing twice
    assert any("own reward model" in warning for warning in report["warnings"])
    assert "from the run: --max_new_tokens=48, --labeler=reward" in capsys.readouterr().out


def test_options_of_ppo_and_references_of_the_rows_are_used(run: Path) -> None:
    function = "lit_instruct.evaluation.labelers.second_opinion"
    record(run, model={"sampling": {"max_new_tokens": 7}, "reward": {"function": function}})
    prompts = write(run / "own.jsonl", [{"prompt": "Where?", "reference": "The book is good."}])
    report = evaluate(EvalOptions(str(run), prompts, best_of=2), fake_loaders([]))
    used = report["options"]
    assert (used["labeler"], used["second_labeler"], used["max_new_tokens"]) == (function, OVERLAP, 7)
    assert report["second_labeler"]["base"]["mean"] == 0.75  # the book is bad: three of four words
    assert report["warnings"] == []


def test_the_runs_reward_function_is_never_called_a_labeler(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    function = "lit_instruct.evaluation.references.overlap"
    record(run, model={"reward": {"function": function}})
    prompts = write(run / "own.jsonl", [{"prompt": "Where?", "reference": "The book is good."}] * 40)
    report = evaluate(EvalOptions(str(run), prompts, best_of=2, second_labeler="reward"), fake_loaders([]))
    assert report["judge"] == "reward function"
    shown = capsys.readouterr().out
    assert f"its reward function {function}" in shown and "PPO minus SFT, reward function:" in shown
    page = (run / "eval/report.html").read_text(encoding="utf-8")
    assert "Reward function score by use case" in page and "<dt>reward function</dt>" in page
    own = [line for line in (shown + page).splitlines() if "labeler" in line and "second labeler" not in line.lower()]
    assert not [line for line in own if "The labelers are functions" not in line and "while the labelers" not in line]
    named = EvalOptions(str(run), prompts, best_of=2, labeler=function, second_labeler="reward")
    assert evaluate(named, fake_loaders([]))["judge"] == "reward function"
    other = EvalOptions(str(run), prompts, best_of=2, labeler=FORM, second_labeler="reward")
    assert evaluate(other, fake_loaders([]))["judge"] == "labeler"


def test_given_options_count(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(run, model={"sampling": {"max_new_tokens": 7}})
    options = EvalOptions(str(run), str(run / "prompts.jsonl"), 3, 2, 9, labeler=FORM, second_labeler="reward")
    report = evaluate(options, fake_loaders([]))
    assert report["options"]["max_new_tokens"] == 9
    assert report["second_labeler"] == report["reward"] and report["labeler"]["sft"]["mean"] == 0.0
    assert report["prompts"] == 3
    assert "from the run" not in capsys.readouterr().out


def test_a_limit_takes_prompts_from_all_over_the_file(run: Path) -> None:
    prompts = write(run / "many.jsonl", [{"prompt": f"number {i}"} for i in range(10)])
    evaluate(EvalOptions(str(run), prompts, limit=3, best_of=2), fake_loaders([]))
    samples = (run / "eval" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in samples] == ["number 0", "number 3", "number 6"]


def test_a_run_that_held_out_nothing_needs_prompts(run: Path) -> None:
    record(run, data={"path": "x.jsonl", "validation_share": 0.0})
    with pytest.raises(UserError, match="ppo: this stage held out no prompts; name some with --prompts"):
        evaluate(EvalOptions(str(run)), fake_loaders([]))


@pytest.mark.parametrize("held_out", ["file", "share"])
def test_the_prompts_of_a_trained_run(
    trained: Path, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], held_out: str
) -> None:
    """Without any option but the run: the prompts on which PPO validated, whether in a file or split off."""
    run = tmp_path / "run"
    rows = [{"prompt": f"{letter} b"} for letter in "abcdefghij"]
    given = [f"--data.path={write(tmp_path / 'train.jsonl', rows)}", "--data.validation_share=0.3"]
    given += [f"--data.validation_path={files.ppo_validation if held_out == 'file' else 'null'}"]
    parents = [f"--model.base={trained / 'sft'}", f"--model.reward.model={trained / 'rm'}"]
    assert fit("ppo", run, files, *given, *parents, "--data.batch_size=4") == 0
    for stage in ("sft", "rm"):
        (run / stage).symlink_to(trained / stage)
    capsys.readouterr()
    assert command("eval", "--run", run, "--best_of=2") == 0
    said = capsys.readouterr().out
    stage = read_stage(run / "ppo")
    assert stage is not None and stage.data is not None
    count = stage.data["validation"]
    assert f"(the {count} validation prompts of PPO)" in said
    prompts = [json.loads(line)["prompt"] for line in (run / "eval" / "samples.jsonl").read_text().splitlines()]
    theirs = files.ppo_validation.read_text() if held_out == "file" else (tmp_path / "train.jsonl").read_text()
    assert len(prompts) == count >= 1 and set(prompts) <= {json.loads(line)["prompt"] for line in theirs.splitlines()}
