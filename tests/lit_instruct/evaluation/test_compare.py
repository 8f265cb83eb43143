"""The comparison of a run's stages, with models that answer from a table."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lit_instruct.errors import UserError
from lit_instruct.evaluation.compare import evaluate
from lit_instruct.evaluation.options import EvalOptions
from lit_instruct.prompting import Prompter
from tests.lit_instruct.evaluation.runs import ANSWERS, change, fake_loaders, write_run

LABELERS = {"labeler": "tone", "second_labeler": "second_opinion"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo")


def options(run: Path, **changes: Any) -> EvalOptions:
    labelers = {name: f"lit_instruct.evaluation.labelers.{own}" for name, own in LABELERS.items()}
    return EvalOptions(**{"run": str(run), "prompts": str(run / "prompts.jsonl"), "best_of": 3} | labelers | changes)


def test_figures(run: Path) -> None:
    opened: list[tuple[str, Any]] = []
    report = evaluate(options(run), fake_loaders(opened))
    # One model after the other, the base with SFT's prompt format.
    assert opened == [("base", "sft"), ("ppo", None), ("sft", None)]
    assert report["prompts"] == 4
    assert report["labeler"]["base"]["mean"] == -0.5423  # VADER's compound of "The book is bad."
    assert report["labeler"]["sft"]["mean"] == 0.0
    assert report["labeler"]["ppo"] == {"mean": 0.4404, "ci_low": 0.4404, "ci_high": 0.4404}
    assert report["labeler"]["ppo_minus_sft"]["ci_low"] == 0.4404
    assert 0.1 < report["labeler"]["ppo_minus_sft"]["p_value"] < 0.15  # all four of one sign: 2 of 16
    # AFINN: good 3, alert -1, so v = 0.2 and the score 0.2 / sqrt(0.04 + 0.25).
    assert report["second_labeler"]["ppo"]["mean"] == pytest.approx(0.371391)
    assert report["win_rate"]["ppo_vs_sft"] == {"mean": 1.0, "ci_low": 1.0, "ci_high": 1.0}
    # The best of three is the third, with two exclamation marks; SFT's own sample is the first, with none.
    assert [report["reward"][name]["mean"] for name in ("sft", "best_of_3", "ppo")] == [0.0, 2.0, 0.0]
    assert report["kl"]["sft"]["mean"] == 0.0
    assert report["kl"]["base"]["mean"] == 16.0  # -10 under itself, -26 under SFT
    assert report["kl"]["ppo"]["mean"] == 6.0
    assert report["kl"]["best_of_3"]["mean"] == pytest.approx(math.log(3) - 2 / 3, abs=1e-6)
    assert [report["length"][name]["mean"] for name in ("base", "sft", "best_of_3", "ppo")] == [5, 6, 8, 6]
    assert [report["eos_share"][name]["mean"] for name in ("base", "sft", "ppo")] == [0.0, 1.0, 1.0]
    # Five bigrams, four times each; PPO's answer has seven (book is good script alert 1 script).
    assert report["distinct_2"]["sft"]["mean"] == 0.25
    assert report["distinct_2"]["ppo_over_sft"] == 1.0
    assert report["distinct_2_within_response"]["sft"] == 1.0
    assert report["reward_model"]["pair_accuracy"] == 0.75
    assert report["metrics"]["rm"] == {"val/pair_accuracy": 0.75}
    assert {name: report["seconds"][name] for name in ("sft", "rm", "ppo")} == {
        "sft": 10,
        "rm": 20,
        "ppo": 30,
    }
    assert report["seconds"]["eval"] >= 0
    assert report["warnings"] == []


def test_real_models(tmp_path: Path, tiny_model: Path) -> None:
    """The tiny model in every role: PPO equals SFT and the base, so no KL and no gain."""
    run = write_run(tmp_path / "demo")
    record = {"base": {"source": str(tiny_model), "revision": None}, "prompt_format": format_of(tiny_model)}
    scorer = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    for name in ("sft", "rm", "ppo"):
        shutil.copytree(tiny_model, run / name, dirs_exist_ok=True)
        path = run / name / "stage.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | record | {"reward_bias": 0.5}))
    scorer.save_pretrained(run / "rm")
    report = evaluate(options(run, best_of=2, max_new_tokens=6))
    assert report["kl"]["ppo"]["mean"] == report["kl"]["base"]["mean"] == 0.0
    assert report["labeler"]["ppo_minus_sft"]["mean"] == 0.0
    assert report["win_rate"]["ppo_vs_sft"]["mean"] == 0.5
    assert report["reward"]["best_of_2"]["mean"] >= report["reward"]["sft"]["mean"] == report["reward"]["ppo"]["mean"]
    assert 1 <= report["length"]["sft"]["mean"] <= 6


def format_of(model: Path) -> dict[str, Any]:
    return Prompter(AutoTokenizer.from_pretrained(model)).describe()


def test_use_cases(run: Path) -> None:
    by_case = evaluate(options(run), fake_loaders([]))["by_use_case"]
    assert {name: case["prompts"] for name, case in by_case.items()} == {
        "<script>alert(1)</script>": 1,
        "chat": 2,
        "other": 1,
    }
    assert by_case["chat"]["labeler"]["ppo"]["mean"] == 0.4404
    assert by_case["chat"]["win_rate"]["ppo_vs_sft"]["mean"] == 1.0


def test_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(options(run), fake_loaders([]))
    folder = run / "eval"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json", "samples.jsonl"]
    assert json.loads((folder / "report.json").read_text()) == report
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [sample["use_case"] for sample in samples] == [
        "chat",
        "<script>alert(1)</script>",
        "chat",
        "other",
    ]
    assert samples[0]["responses"]["best_of_3"]["text"] == "The book is on the table.!!"
    assert samples[0]["ppo_minus_sft"] == 0.4404
    printed = capsys.readouterr().out
    assert "4 held-out prompts: mean" in printed
    assert "PPO minus SFT, labeler: 0.44 (0.44 to 0.44)" in printed
    assert "report.html" in printed


def test_a_lone_surrogate_does_not_end_the_report(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANSWERS, "ppo", "a\ud800b")
    evaluate(options(run), fake_loaders([]))
    assert '"text": "a?b"' in (run / "eval" / "samples.jsonl").read_text()


def test_a_second_evaluation_gives_the_same_figures(run: Path) -> None:
    first, second = (evaluate(options(run), fake_loaders([])) for _ in range(2))
    for report in (first, second):
        report.pop("date")
        report["seconds"].pop("eval")
    assert first == second


def test_without_a_reward_model_the_rest_is_compared(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run with a reward function alone has no rm stage."""
    shutil.rmtree(run / "rm")
    opened: list[tuple[str, Any]] = []
    report = evaluate(options(run), fake_loaders(opened))
    assert list(report["systems"]) == ["base", "sft", "ppo"] and "reward" not in report
    assert report["labeler"]["ppo_minus_sft"]["mean"] == 0.4404
    assert report["kl"]["ppo"]["mean"] == 6.0
    assert report["left_out"] == [
        "reward-model scores and best-of-n are left out: there is no reward model (--reward_model)"
    ]
    assert report["left_out"][0] in " ".join(capsys.readouterr().out.split())
    page = (run / "eval" / "report.html").read_text()
    assert report["left_out"][0] in page and "Reward-model score against KL" not in page
    with pytest.raises(UserError, match="--labeler=reward: there is no reward model"):
        evaluate(options(run, labeler="reward"), fake_loaders([]))


def test_without_ppo_sft_is_compared_with_the_base(run: Path) -> None:
    shutil.rmtree(run / "ppo")
    report = evaluate(options(run), fake_loaders([]))
    assert list(report["systems"]) == ["base", "sft", "best_of_3"]
    assert report["labeler"]["sft_minus_base"]["mean"] == 0.5423
    assert report["win_rate"] == {"sft_vs_base": {"mean": 1.0, "ci_low": 1.0, "ci_high": 1.0}}
    assert "no PPO stage" in report["left_out"][0]


def test_a_policy_of_a_model_made_elsewhere(run: Path) -> None:
    """PPO started from org/sft: that is the reference, and what it trained on is not known."""
    shutil.rmtree(run / "sft")
    change(run / "ppo", parents={"sft": "org/sft", "reward": "runs/gone/rm"}, base={"source": "org/sft"})
    report = evaluate(options(run), fake_loaders([]))
    assert list(report["systems"]) == ["sft", "best_of_3", "ppo"]
    assert report["models"] | {"reward_model": ""} == {
        "sft": "org/sft",
        "ppo": str(run / "ppo"),
        "reference": "org/sft",
        "reward_model": "",
    }
    assert report["kl"]["ppo"]["mean"] == 6.0
    assert not report["seen"]["held_out"] and "which prompts org/sft trained on" in report["warnings"][0]


@pytest.mark.parametrize(("kept", "said"), [("rm", "neither an SFT nor a PPO"), ("none", "neither an SFT nor a PPO")])
def test_nothing_to_compare_names_the_command(run: Path, kept: str, said: str) -> None:
    for stage in {"sft", "rm", "ppo"} - {kept}:
        (run / stage / "stage.json").unlink()
    with pytest.raises(UserError, match=rf"{said} stage in this run; run `lit-instruct sft fit --run .*` first"):
        evaluate(options(run), fake_loaders([]))
    assert not (run / "eval").exists()


def test_another_prompt_format_is_refused(run: Path) -> None:
    path = run / "ppo" / "stage.json"
    path.write_text(path.read_text().replace('"chat"', '"raw"'))
    with pytest.raises(UserError, match="another prompt format .* run `lit-instruct ppo fit --run .* again"):
        evaluate(options(run), fake_loaders([]))


def test_a_stage_newer_than_the_policy_is_pointed_out(run: Path) -> None:
    path = run / "sft" / "stage.json"
    path.write_text(path.read_text().replace("2026-01-01", "2026-01-02"))
    report = evaluate(options(run), fake_loaders([]))
    assert len(report["warnings"]) == 1
    assert report["warnings"][0].startswith("sft was made again after ppo")
    assert report["warnings"][0] in (run / "eval" / "report.html").read_text()


def test_a_policy_of_little_variety_is_pointed_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_instruct.evaluation.verdict.LEAST_VARIETY", 1.01)  # PPO's responses are as varied as SFT's
    (warning,) = evaluate(options(run), fake_loaders([]))["warnings"]
    assert "distinct-2 is 100 % of sft's" in warning
    assert "similar responses to different prompts" in (run / "eval" / "report.html").read_text()


def short_labeler(pairs: list[tuple[str, str]]) -> list[float]:
    return [0.0]


def test_a_labeler_that_misbehaves_leaves_the_earlier_report(run: Path) -> None:
    evaluate(options(run), fake_loaders([]))
    before = (run / "eval" / "report.json").read_bytes()
    with pytest.raises(UserError, match="short_labeler.*1 scores for 4"):
        evaluate(options(run, second_labeler=f"{__name__}.short_labeler"), fake_loaders([]))
    assert (run / "eval" / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    "wrong", [{"best_of": 0}, {"max_new_tokens": 0}, {"batch_size": -1}, {"limit": 0}, {"temperature": 0.0}]
)
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}: .*; give a positive number"):
        EvalOptions(**wrong)
