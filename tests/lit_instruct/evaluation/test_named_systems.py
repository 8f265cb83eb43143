"""Models by name: stages of several runs, models made elsewhere, and what is left out where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_instruct.errors import UserError
from lit_instruct.evaluation.compare import evaluate
from lit_instruct.evaluation.options import EvalOptions
from tests.lit_instruct.evaluation.runs import change, fake_loaders, write_run
from tests.lit_instruct.stages.helpers import Files, fit
from tests.lit_instruct.stages.helpers import run as command

LABELERS = {
    "labeler": "lit_instruct.evaluation.labelers.tone",
    "second_labeler": "lit_instruct.evaluation.labelers.second_opinion",
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs x and y in the folder runs, which is in the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("x", "y"):
        write_run(tmp_path / "runs" / name)
    return tmp_path / "runs"


def compared(systems: dict[str, str], opened: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    given = EvalOptions(systems=systems, prompts="runs/x/prompts.jsonl", **{**LABELERS, **more})
    return evaluate(given, fake_loaders(opened if opened is not None else []))


def test_stages_of_one_run(runs: Path) -> None:
    opened: list[Any] = []
    report = compared({"before": "runs/x/sft", "after": "runs/x/ppo"}, opened)
    assert opened == [("ppo", None), ("sft", None)]
    assert report["systems"] == {"before": "before", "after": "after"}
    assert report["labeler"]["after_minus_before"]["mean"] == 0.4404
    assert report["win_rate"]["after_vs_before"]["mean"] == 1.0
    assert report["kl"]["before"]["mean"] == 0.0 and report["kl"]["after"]["mean"] == 6.0
    assert report["reward"]["after"]["mean"] == 0.0  # of the run's reward model
    assert report["left_out"] == []
    assert sorted(path.name for path in (runs / "eval-before-after").iterdir()) == [
        "report.html",
        "report.json",
        "samples.jsonl",
    ]
    assert not (runs / "demo").exists() and not (runs / "x" / "eval").exists()


def test_policies_of_two_runs_have_no_reference_in_common(runs: Path, tmp_path: Path) -> None:
    report = compared({"a": "runs/x/ppo", "b": "runs/y/ppo", "hub": "org/model"}, out=str(tmp_path / "out"))
    assert report["pairs"] == [["b", "a"], ["hub", "a"]]
    assert "kl" not in report and "reward" not in report
    assert report["labeler"]["b_minus_a"]["mean"] == report["labeler"]["hub_minus_a"]["mean"] == 0.0
    kl, reward = report["left_out"]
    assert kl.startswith("KL to SFT is left out") and reward.startswith("reward-model scores are left out")
    assert "org/model trained on" in report["warnings"][0]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "4 prompts are too few to say whether b is better than a" in page
    assert "4 prompts are too few to say whether hub is better than a" in page


def test_policies_from_the_same_sft_model_share_the_reference(runs: Path) -> None:
    (runs / "y" / "sft" / "stage.json").unlink()
    change(runs / "y" / "ppo", parents={"sft": "runs/x/sft"})
    report = compared({"a": "runs/x/ppo", "b": "runs/y/ppo"})
    assert report["models"]["reference"] == "runs/x/sft"
    assert report["kl"]["a"]["mean"] == report["kl"]["b"]["mean"] == 6.0


def test_a_reference_and_a_reward_model_can_be_named(runs: Path) -> None:
    report = compared({"a": "runs/x/ppo", "b": "org/b"}, reference="runs/y/sft", reward_model="runs/y/rm")
    assert report["kl"]["b"]["mean"] == 6.0 and report["reward"]["b"]["mean"] == 0.0
    assert set(report["seeds"]) == {"a", "reference", "reward model"}


def test_a_model_of_other_tokens_has_no_kl(runs: Path) -> None:
    report = compared({"a": "runs/x/sft", "b": "org/other"})
    assert list(report["kl"]) == ["a"]
    assert report["left_out"][1:] == ["KL of b is left out: another prompt format than the reference's"]


@pytest.mark.parametrize(
    ("systems", "said"),
    [
        ({"a": "runs/x/ppo"}, "name at least two"),
        ({"a b": "x", "c": "y"}, "not a name for a system"),
        ({"a_minus_b": "x", "c": "y"}, "not a name for a system"),
        ({"a": "runs/x/ppo", "b": "runs/x/rm"}, "a reward model answers no prompts"),
    ],
)
def test_mistakes(runs: Path, systems: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        compared(systems)


def test_real_models_from_the_command_line(
    trained: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"prompt": "a b"}\n{"prompt": "c d"}\n')
    words = [f"--systems.tiny={tiny_model}", f"--systems.sft={trained / 'sft'}", f"--systems.ppo={trained / 'ppo'}"]
    assert command("eval", *words, "--prompts=p.jsonl", "--max_new_tokens=4", "--out=out") == 0
    out = capsys.readouterr().out
    assert "PPO minus tiny, labeler:" in out and "KL to SFT" in out and "reward model" in out
    assert (tmp_path / "out" / "report.html").is_file()
    assert command("eval", "--systems.a=runs/none", "--systems.b=org/x", "--prompts=p.jsonl") == 2
    assert "--systems.a=runs/none: no such folder" in capsys.readouterr().err


def test_a_run_with_only_a_reward_function(
    trained: Path, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no rm stage: the function judges, and what needs a reward model is left out."""
    run = tmp_path / "run"
    function = "lit_instruct.evaluation.labelers.second_opinion"
    reward = (f"--model.reward.function={function}", "--model.iterations=1", f"--model.base={trained / 'sft'}")
    assert fit("ppo", run, files, *reward) == 0
    for here in (False, True):  # whether SFT is in this run
        if here:
            (run / "sft").symlink_to(trained / "sft")
        capsys.readouterr()
        assert command("eval", "--run", run, f"--prompts={files.ppo_validation}") == 0
        out = " ".join(capsys.readouterr().out.split())
        assert f"its reward function {function}" in out and "5 held-out prompts: mean" in out
        assert "PPO minus SFT, reward function:" in out and "KL to SFT (nats)" in out
        assert "reward-model scores and best-of-n are left out: there is no reward model" in out
        assert "warning" not in out
