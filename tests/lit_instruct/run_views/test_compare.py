"""`lit-instruct compare`: figures, intervals, paired differences and options of runs, and mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_instruct.evaluation.measures import bootstrap, paired_difference
from lit_instruct.run_views.comparison import compared_runs, read_runs
from lit_instruct.run_views.stage_log import StageLog
from tests.lit_instruct.run_views.runs import NOW, ppo_log, progress, record, sample, sft_log, training_run, write_stage
from tests.lit_instruct.stages.helpers import run as lit_instruct

FUNCTION = {"function": "module.letters", "model": "{run}/rm"}


def options(run: Path, coef: Any = 0.1, reward: dict[str, Any] | None = None) -> dict[str, Any]:
    model = {"base": f"{run}/sft", "kl": {"coef": coef}, "reward": reward or {"function": None, "model": f"{run}/rm"}}
    return {"model": model, "data": {"path": "prompts.jsonl", "seed": 1}, "trainer": {"max_steps": -1}}


def ppo_run(run: Path, shift: float, **more: Any) -> Path:
    """A run whose PPO scored the prompts 0 to 9 by 0.1 a prompt, plus a shift that alternates a little."""
    rows = [
        sample(4, f"prompt {n}", reward=round(n / 10 + shift * (1 + n % 2), 3), kl=1.0 + shift, length=10)
        for n in range(10)
    ]
    earlier = [sample(2, f"prompt {n}", reward=-9.0) for n in range(10)]
    made = record("ppo", {"val/reward": 2.0 + shift, "val/kl": 4.0}, **({"options": options(run)} | more))
    write_stage(run / "ppo", ppo_log(4, shift), progress("ppo", 4, 4, ended="complete"), made, earlier + rows)
    return run


def found(*runs: Path) -> dict[str, Any]:
    return compared_runs(*read_runs([str(run) for run in runs]), NOW)


def test_final_figures_and_options_that_differ(tmp_path: Path) -> None:
    a, b = ppo_run(tmp_path / "a", 0.0), ppo_run(tmp_path / "b", 0.5, options=options(tmp_path / "b", 0.2), seed=7)
    stage = found(a, b)["stages"]["ppo"]
    assert stage["figures"]["val/reward"] == {"a": 2.0, "b": 2.5}
    assert "ppo/kl" not in stage["figures"]  # no record has it
    assert stage["options"] == {"model.kl.coef": {"a": 0.1, "b": 0.2}, "seed": {"a": 0, "b": 7}}
    assert stage["states"]["a"]["state"] == "finished"
    assert stage["seconds"] == {"a": 95.0, "b": 95.0} and stage["peak_memory_gb"] == {"a": 1.25, "b": 1.25}


def test_intervals_and_paired_differences_of_the_last_validation(tmp_path: Path) -> None:
    reward = {"options": options(tmp_path, reward=FUNCTION)}
    a, b = ppo_run(tmp_path / "a", 0.0, **reward), ppo_run(tmp_path / "b", 0.5, **reward)
    measure = found(a, b)["stages"]["ppo"]["validation"]["reward"]
    ours, theirs = [n / 10 + 0.5 * (1 + n % 2) for n in range(10)], [n / 10 for n in range(10)]
    alone, paired = bootstrap(ours, 0), paired_difference(ours, theirs, 0)
    assert measure["runs"]["b"]["mean"] == pytest.approx(1.2)
    assert measure["runs"]["b"]["ci_low"] == pytest.approx(alone.ci_low, abs=1e-6)
    assert measure["minus"] == "a" and list(measure["differences"]) == ["b"]
    assert measure["differences"]["b"]["mean"] == pytest.approx(0.75)
    assert measure["differences"]["b"]["ci_high"] == pytest.approx(paired.ci_high, abs=1e-6)
    assert measure["differences"]["b"]["prompts"] == 10


def test_samples_are_those_of_the_policy_that_was_handed_over(tmp_path: Path) -> None:
    a, b = ppo_run(tmp_path / "a", 0.0), ppo_run(tmp_path / "b", 0.5)
    made = json.loads((b / "ppo" / "stage.json").read_text())
    made["metrics"]["val/reward"] = 1.5  # that of iteration 2
    (b / "ppo" / "stage.json").write_text(json.dumps(made))
    assert found(a, b)["stages"]["ppo"]["validation"]["reward"]["runs"]["b"]["mean"] == -9.0


def test_only_prompts_that_both_answered_make_a_difference(tmp_path: Path) -> None:
    reward = {"options": options(tmp_path, reward=FUNCTION)}
    a, b = ppo_run(tmp_path / "a", 0.0, **reward), ppo_run(tmp_path / "b", 0.5, **reward)
    path = b / "ppo" / "logs" / "samples.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(reversed(lines[:16])))  # six prompts of the last validation, in another order
    difference = found(a, b)["stages"]["ppo"]["validation"]["reward"]["differences"]["b"]
    assert (difference["prompts"], difference["mean"]) == (6, pytest.approx(0.75))
    path.write_text("".join(line.replace("prompt ", "other ") for line in lines))
    measure = found(a, b)["stages"]["ppo"]["validation"]["reward"]
    assert measure["differences"] == {}
    assert measure["note"] == "no difference: b and a did not answer the same prompts"


def reward_stage(run: Path, made: float) -> None:
    write_stage(run / "rm", None, None, record("rm", {"val/pair_accuracy": 0.75}, made))


def test_different_reward_models_have_no_difference(tmp_path: Path) -> None:
    a, b = ppo_run(tmp_path / "a", 0.0), ppo_run(tmp_path / "b", 0.5)
    reward_stage(a, NOW - 50)
    reward_stage(b, NOW - 60)
    stage = found(a, b)["stages"]["ppo"]
    assert stage["validation"]["reward"]["note"] == "no difference: the rewards of the runs are not the same"
    assert "differences" not in stage["validation"]["reward"] and not stage["one_reward"]
    assert stage["validation"]["kl"]["differences"]["b"]["mean"] == pytest.approx(0.5)
    assert "model.reward.model" not in stage["options"]  # {run}/rm in both
    reward_stage(b, NOW - 50)  # a copy
    assert found(a, b)["stages"]["ppo"]["validation"]["reward"]["differences"]["b"]["mean"] == pytest.approx(0.75)


def test_runs_that_lack_a_stage_and_one_that_trains(tmp_path: Path) -> None:
    a, b = training_run(tmp_path / "a"), ppo_run(tmp_path / "b", 0.5)
    (b / "ppo" / "logs" / "config.yaml").write_text(yaml.safe_dump(options(b, "1e-1") | {"run": str(b)}))
    (a / "ppo" / "logs" / "config.yaml").write_text(yaml.safe_dump(options(a, 0.1) | {"run": "runs/elsewhere"}))
    result = found(a, b)
    assert list(result["stages"]) == ["ppo"]
    assert result["notes"] == ["only a has the stage sft, which is left out"]
    assert result["stages"]["ppo"]["states"]["a"]["sentence"].startswith("training: iteration 4 of 10")
    assert result["stages"]["ppo"]["figures"]["ppo/kl"] == {"a": 2.0, "b": None}  # so far; not in the record of b
    assert result["stages"]["ppo"]["options"] == {}
    c = write_stage(tmp_path / "c" / "sft", sft_log(4)).parent
    assert "b has no stage sft" in found(a, b, c)["notes"]


def evaluated(run: Path, labeler: str, shift: float) -> Path:
    folder = run / "eval"
    folder.mkdir(parents=True)
    answer = {"text": "x", "ended": True, "second_labeler": 0.0, "tokens": 4}
    rows = [{"prompt": f"p{n}", "responses": {"ppo": answer | {"labeler": n + shift}}} for n in range(5)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = {"options": {"labeler": labeler, "second_labeler": "two"}, "models": {"reward_model": None}}
    (folder / "report.json").write_text(json.dumps(report))
    return run


def test_evaluations_are_compared_with_one_judge(tmp_path: Path) -> None:
    a, b, c = (ppo_run(tmp_path / name, 0.0) for name in "abc")
    evaluated(a, "one", 0.0)
    assert found(a, b)["notes"] == ["only a has an evaluation, which is left out"]
    evaluated(b, "one", 2.0)
    measures = found(a, b)["evaluation"]["ppo"]
    assert measures["labeler"]["differences"]["b"] == {"mean": 2.0, "ci_low": 2.0, "ci_high": 2.0, "prompts": 5}
    evaluated(c, "other", 2.0)
    measures = found(a, c)["evaluation"]["ppo"]
    assert measures["labeler"]["note"] == "no difference: the judges of the runs are not the same"
    assert measures["second_labeler"]["differences"]["c"]["mean"] == 0.0


def test_text_page_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    ppo_run(Path("runs/a"), 0.0), ppo_run(Path("runs/b"), 0.5, options=options(Path("runs/b"), 0.2))
    assert lit_instruct("compare", "runs/a", "runs/b", "--out", "a.html", "--json=a.json") == 0
    shown = capsys.readouterr().out
    assert re.search(r"val/reward +2.00 +2.50", shown) and re.search(r"model.kl.coef +0.1 +0.2", shown)
    assert re.search(r"kl +b +1.50 \(1.50 to 1.50\), 10 prompts +\+0.500 \(\+0.500 to \+0.500\), 10 prompts", shown)
    page = Path("a.html").read_text()
    assert page.count("<svg") == 6 and "model.kl.coef" in page and "<script" not in page
    assert json.loads(Path("a.json").read_text())["runs"] == {"a": "runs/a", "b": "runs/b"}
    assert lit_instruct("compare", "runs/a", "runs/b", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("a.json").read_text())


def test_runs_of_one_name_are_told_apart_and_harmful_names_are_escaped(tmp_path: Path) -> None:
    a, b = ppo_run(tmp_path / "x" / "<i>a</i>", 0.0), ppo_run(tmp_path / "y" / "<i>a</i>", 0.5)
    folders, logs = read_runs([str(a), str(b)])
    assert list(folders) == [str(a), str(b)]
    from lit_instruct.run_views.compare_page import build_page

    assert "<i>" not in build_page(compared_runs(folders, logs, NOW), logs)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a"], "give 2 to 8 runs, such as"),
        (["a"] * 9, "give 2 to 8 runs"),
        (["a", "a"], "a: this run is given twice"),
        (["a", "./a/../a"], "this run is given twice"),
        (["a", "nope"], "nope: no such run folder"),
        (["a", "a/ppo"], "a/ppo: this is a stage; give the folder of the run"),
        (["a", "empty"], "empty: none of the stages"),
        (["a", "other"], "these runs have no stage in common (a has ppo; other has sft)"),
        (["a", "b", "--out", "nope/x.html"], "nope/x.html: cannot write here"),
        (["--out=x"], "runs"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ppo_run(Path("a"), 0.0), ppo_run(Path("b"), 0.5)
    Path("empty").mkdir()
    write_stage(Path("other/sft"), sft_log(4))
    assert lit_instruct("compare", *words) == 2
    told = capsys.readouterr().err
    assert told.startswith("lit-instruct: error: ") and said in told and told.count("\n") == 1


def test_a_damaged_evaluation_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = evaluated(ppo_run(tmp_path / "a", 0.0), "one", 0.0), ppo_run(tmp_path / "b", 0.5)
    (a / "eval" / "samples.jsonl").write_text("{}\n")
    assert lit_instruct("compare", a, b) == 2
    assert "eval: damaged ('prompt'); evaluate that run again" in capsys.readouterr().err
    assert StageLog(a / "ppo").wrong == []
