"""Folders that lit-instruct 0.1.0 wrote (commit f26d264, by tests/old_folders/record.sh) are read and continued.

0.1.0 never had a tag: f26d264 is its stand-in, the last commit before options were renamed.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from lit_instruct.cli import main
from lit_instruct.handover import read_stage
from tests.lit_instruct.stages.helpers import QUICK, weights

ARCHIVE = Path(__file__).parents[1] / "old_folders/v0_1_0.zip"
STAGES = ("sft", "rm", "ppo")
SAME = ("--model.lora.r=2", "--model.lora.top_layers=1", "--model.dtype=float32", *QUICK)
SHORT = ("--data.batch_size=4", *SAME)
PPO = (
    "--data.path=prompts.jsonl",
    "--data.validation_path=prompts.jsonl",
    "--data.validation_limit=4",
    "--data.batch_size=8",
    "--model.objective.minibatches=2",
    "--model.kl.coef=0.1",
    "--model.sampling.max_new_tokens=4",
    "--trainer.val_check_interval=2",
    "--trainer.check_val_every_n_epoch=null",
    *SAME,
)
MEASURED = ("ppo/iteration_seconds", "ppo/sampling_seconds", "ppo/tokens_per_second")


@pytest.fixture(autouse=True)
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which 0.1.0 ran, as the current folder: base, data and run."""
    shutil.unpack_archive(ARCHIVE, tmp_path)
    for stage in ("sft", "rm"):  # the archive is smaller without best.ckpt, which after one epoch has the same weights
        folder = tmp_path / "run" / stage / "checkpoints"
        shutil.copy(folder / "last.ckpt", folder / "best.ckpt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path: Path) -> list[dict[str, str]]:
    """A CSV file's rows."""
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.parametrize("stage", STAGES)
def test_stage_json_is_read(old: Path, stage: str) -> None:
    found = read_stage(old / "run" / stage)
    assert found is not None and found.stage == stage and found.versions["lit-instruct"] == "0.1.0"
    assert found.dtype is None and found.trained_prompts is None  # 0.1.0 did not record them


def test_the_reward_model_gives_the_figures_that_0_1_0_recorded() -> None:
    before = read_stage(Path("run/rm"))
    assert before is not None
    words = ["--data.path=comparisons.jsonl", "--data.validation_path=comparisons.jsonl"]
    assert main(["rm", "validate", "--run=run", *words, *SHORT]) == 0
    now = json.loads(Path("run/rm/validation.json").read_text())
    assert now["pair_accuracy"]["value"] == pytest.approx(before.metrics["val/pair_accuracy"], abs=1e-6)


def test_ppo_continues_to_the_figures_of_0_1_0() -> None:
    """Two iterations by 0.1.0 and two by today's code give the figures of four by 0.1.0."""
    assert main(["ppo", "fit", "--run=run", "--model.iterations=4", "--ckpt_path=last", *PPO]) == 0
    now, before = (rows(Path(name)) for name in ("run/ppo/logs/metrics.csv", "continued.csv"))
    assert len(now) == len(before) == 6
    for mine, theirs in zip(now, before, strict=True):
        for name in theirs.keys() - {*MEASURED}:
            assert (mine[name] == "") == (theirs[name] == ""), name
            if theirs[name]:
                assert float(mine[name]) == pytest.approx(float(theirs[name]), rel=1e-4, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "data"), [("sft", "demonstrations"), ("rm", "comparisons")])
def test_sft_and_reward_model_continue(old: Path, stage: str, data: str) -> None:
    before = weights(old / "run" / stage)
    words = [f"--data.path={data}.jsonl", f"--data.validation_path={data}.jsonl", "--trainer.max_epochs=2", *SHORT]
    base = ["--model.base=base"] if stage == "sft" else []
    assert main([stage, "fit", "--run=run", "--ckpt_path=last", *base, *words]) == 0
    now = weights(old / "run" / stage)
    assert now.keys() == before.keys() and any(not now[name].equal(before[name]) for name in now)
    logged = rows(old / "run" / stage / "logs/metrics.csv")
    assert [row["epoch"] for row in logged if row["val/loss"]] == ["0", "1"]


@pytest.mark.slow
def test_other_commands_open_the_folders(old: Path) -> None:
    sampled = ["--data.path=prompts.jsonl", "--data.limit=2", "--k=2", "--sampling.max_new_tokens=4"]
    assert main(["sample", "--run=run/ppo", *sampled, "--labeler=null", "--out=out.jsonl"]) == 0
    assert main(["rm", "score", "--run=run", "--data.path=demonstrations.jsonl", "--out=scored.jsonl"]) == 0
    assert main(["export", "--run=run/ppo", "--to=exported", "--merge=true"]) == 0
    assert (old / "exported/model.safetensors").is_file()
    assert len((old / "scored.jsonl").read_text().splitlines()) == 8


def test_recorded_options_end_with_a_sentence_for_each_name_that_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ppo", "fit", "--config=run/ppo/logs/config.yaml", "--run=again"]) == 2
    said = capsys.readouterr().err
    assert "--model.ppo.kl_coef (in run/ppo/logs/config.yaml): is called --model.kl.coef now; " in said
    assert "--weights_only (in run/ppo/logs/config.yaml): is gone, only tensors and plain values are read from" in said
    assert not Path("again").exists()


@pytest.mark.slow
def test_the_recorded_options_of_sft_run_again_without_what_is_gone(old: Path) -> None:
    config = old / "run/sft/logs/config.yaml"
    gone = ("weights_only:", "  default_root_dir:")
    config.write_text("".join(line for line in config.open() if not line.startswith(gone)))
    assert main(["sft", "fit", "--config=run/sft/logs/config.yaml", "--run=again"]) == 0
    again = Path("again/sft/logs/config.yaml")
    assert main(["sft", "fit", f"--config={again}", "--run=twice"]) == 0  # today's own record, too
