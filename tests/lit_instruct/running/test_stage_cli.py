"""What a run of a stage writes where: a second run, fast_dev_run, validate and test, other loggers, recipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lit_instruct.stages.helpers import (
    FLOAT,
    QUICK,
    SMALL,
    Files,
    assert_equal,
    column,
    fit,
    prompts,
    rows_of,
    run,
    snapshot,
    weights,
    write_rows,
)

STAGES = ("sft", "rm", "ppo")


def start(trained: Path, stage: str) -> list[str]:
    """The base that the stage of the trained run had."""
    source = json.loads((trained / "sft/stage.json").read_text())["base"]["source"]
    return [f"--model.base={source}"] if stage == "sft" else []


@pytest.mark.parametrize("stage", STAGES)
def test_a_second_run_puts_the_first_ones_files_aside(run_folder: Path, files: Files, stage: str) -> None:
    folder = run_folder / stage
    log, config = (folder / "logs/metrics.csv").read_bytes(), (folder / "logs/config.yaml").read_bytes()
    assert fit(stage, run_folder, files, *start(run_folder, stage), "--seed_everything=7") == 0
    assert (folder / "previous/1/logs/metrics.csv").read_bytes() == log
    assert (folder / "previous/1/logs/config.yaml").read_bytes() == config
    assert (folder / "previous/1/checkpoints/last.ckpt").is_file()
    assert (folder / "logs/metrics.csv").read_bytes() != log
    assert "seed_everything: 7" in (folder / "logs/config.yaml").read_text()
    assert json.loads((folder / "stage.json").read_text())["seed"] == 7
    assert fit(stage, run_folder, files, *start(run_folder, stage)) == 0
    assert (folder / "previous/2/logs/metrics.csv").is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_seed_gives_the_same_run(run_folder: Path, trained: Path, files: Files, stage: str) -> None:
    more = [f"--data.demonstrations_path={files.sft}"] if stage == "rm" else []
    assert fit(stage, run_folder, files, *start(run_folder, stage), *more) == 0
    assert_equal(weights(trained / stage), weights(run_folder / stage))
    assert rows_of(trained / stage / "logs/metrics.csv") == rows_of(run_folder / stage / "logs/metrics.csv")


@pytest.mark.parametrize("stage", STAGES)
def test_fast_dev_run_writes_nothing(run_folder: Path, files: Files, stage: str) -> None:
    before = snapshot(run_folder)
    assert fit(stage, run_folder, files, *start(run_folder, stage), "--trainer.fast_dev_run=1") == 0
    assert snapshot(run_folder) == before


@pytest.mark.parametrize("stage", STAGES)
def test_fast_dev_run_leaves_no_folder(tmp_path: Path, trained: Path, files: Files, stage: str) -> None:
    base = start(trained, "sft") if stage == "sft" else [f"--model.base={trained / 'sft'}"]
    more = [f"--model.reward.model={trained / 'rm'}"] if stage == "ppo" else []
    assert fit(stage, tmp_path / "fresh", files, *base, *more, "--trainer.fast_dev_run=1") == 0
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_without_loggers(tmp_path: Path, trained: Path, files: Files, stage: str) -> None:
    base = start(trained, "sft") if stage == "sft" else [f"--model.base={trained / 'sft'}"]
    more = [f"--model.reward.model={trained / 'rm'}"] if stage == "ppo" else []
    assert fit(stage, tmp_path, files, *base, *more, "--trainer.logger=false") == 0
    assert (tmp_path / stage / "stage.json").is_file()
    assert not (tmp_path / stage / "logs/metrics.csv").exists()


@pytest.mark.parametrize("subcommand", ["validate", "test"])
@pytest.mark.parametrize("stage", STAGES)
def test_validate_measures_the_stages_own_result(
    run_folder: Path, files: Files, capsys: pytest.CaptureFixture[str], stage: str, subcommand: str
) -> None:
    before = snapshot(run_folder)
    short = [word for word in SMALL[stage] if not word.startswith(("--trainer.", "--model.iterations"))]
    words = [*files.options(stage), *short, "--model.lora.top_layers=2", *FLOAT, *QUICK, *start(run_folder, stage)]
    capsys.readouterr()
    assert run(stage, subcommand, "--run", run_folder, *words) == 0
    shown = capsys.readouterr().out
    metrics = json.loads((run_folder / stage / "stage.json").read_text())["metrics"]
    name = "val/reward" if stage == "ppo" else "val/loss"
    assert str(metrics[name])[:8] in shown  # cut, not rounded: the table shows every digit
    after = snapshot(run_folder)
    reports = {"rm/validation.json", "rm/validation.html"} if (stage, subcommand) == ("rm", "validate") else set()
    assert after.keys() - before.keys() == reports
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("stage", STAGES)
def test_validate_of_a_stage_that_never_ran(
    tmp_path: Path, trained: Path, files: Files, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    words = [*files.options(stage), *QUICK, *start(trained, "sft")]
    assert run(stage, "validate", "--run", tmp_path / "fresh", *words) == 2
    assert "run `lit-instruct " in capsys.readouterr().err


def test_stage_json_says_what_was_done(trained: Path) -> None:
    records = {stage: json.loads((trained / stage / "stage.json").read_text()) for stage in STAGES}
    assert [records[stage]["stage"] for stage in STAGES] == list(STAGES)
    assert len({json.dumps(record["base"]) for record in records.values()}) == 1
    assert len({json.dumps(record["prompt_format"]) for record in records.values()}) == 1
    assert records["rm"]["parents"] == {"sft": str(trained / "sft")}
    assert records["ppo"]["parents"] == {"sft": str(trained / "sft"), "reward": str(trained / "rm")}
    assert records["rm"]["reward_bias"] != 0
    assert records["sft"]["reward_bias"] is None
    assert {"val/loss", "val/token_accuracy"} <= records["sft"]["metrics"].keys()
    assert {"val/loss", "val/pair_accuracy"} <= records["rm"]["metrics"].keys()
    assert {"val/reward", "val/kl", "val/response_length", "val/eos_share"} <= records["ppo"]["metrics"].keys()
    assert all(record["seconds"] > 0 and record["versions"]["trl"] for record in records.values())


def test_the_best_checkpoint_is_the_result(trained: Path) -> None:
    for stage in ("sft", "rm"):
        losses = column(trained / stage / "logs/metrics.csv", "val/loss")
        record = json.loads((trained / stage / "stage.json").read_text())
        assert record["metrics"]["val/loss"] == pytest.approx(min(losses), rel=1e-6)


def test_logged_columns(trained: Path) -> None:
    wanted = {
        "sft": "train/loss train/grad_norm train/learning_rate val/loss val/token_accuracy",
        "rm": "train/loss train/grad_norm train/pair_accuracy val/loss val/pair_accuracy",
        "ppo": "ppo/iteration ppo/episodes ppo/reward ppo/kl ppo/response_length ppo/eos_share ppo/entropy loss/policy"
        " loss/value grad_norm/policy grad_norm/value"
        " ppo/explained_variance ppo/clip_share ppo/tokens_per_second val/reward val/kl"
        " val/response_length val/eos_share",
    }
    for stage, names in wanted.items():
        header = (trained / stage / "logs/metrics.csv").read_text().splitlines()[0].split(",")
        assert set(names.split()) <= set(header)
    assert column(trained / "ppo/logs/metrics.csv", "ppo/iteration") == [1.0, 2.0, 3.0, 4.0]
    assert column(trained / "ppo/logs/metrics.csv", "ppo/episodes") == [8.0, 16.0, 24.0, 32.0]
    assert len(column(trained / "ppo/logs/metrics.csv", "val/reward")) == 2


def test_every_validation_sample_is_kept_in_the_order_of_the_prompts(tmp_path: Path, tiny_model: Path) -> None:
    files = Files(tmp_path)
    held = write_rows(tmp_path / "eleven.jsonl", prompts(11, 1))  # more than TensorBoard shows
    more = [f"--data.validation_path={held}", f"--model.base={tiny_model}", "--model.reward.model=null"]
    more += ["--model.reward.function=tests.lit_instruct.stages.rewards.letters", "--model.iterations=2"]
    assert fit("ppo", tmp_path / "run", files, *more) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/ppo/logs/samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in prompts(11, 1)]
    record = json.loads((tmp_path / "run/ppo/stage.json").read_text())
    for name, figure in (("reward", "val/reward"), ("kl", "val/kl"), ("length", "val/response_length")):
        assert sum(row[name] for row in rows) / 11 == pytest.approx(record["metrics"][figure], abs=0.006)


def test_the_table_of_samples(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "ppo/logs/samples.jsonl").read_text().splitlines()]
    assert {row["iteration"] for row in rows} == {2, 4}
    assert {"prompt", "response", "reward", "kl"} <= rows[0].keys()
    assert len(rows) == 10


def test_a_recipe_is_overridden_by_the_command_line(tmp_path: Path, trained: Path, files: Files) -> None:
    recipe = tmp_path / "sft.yaml"
    recipe.write_text("# test\nmodel:\n  lora:\n    r: 4\ndata:\n  batch_size: 10\n")
    words = ["--config", recipe, *start(trained, "sft"), f"--data.path={files.sft}", "--model.lora.r=8", *QUICK]
    assert run("sft", "fit", "--run", tmp_path / "run", *words, "--trainer.max_epochs=1") == 0
    assert json.loads((tmp_path / "run/sft/adapter_config.json").read_text())["r"] == 8
    assert len(column(tmp_path / "run/sft/logs/metrics.csv", "train/loss")) == 2


@pytest.mark.slow
def test_ctrl_c_from_outside(tmp_path: Path, trained: Path, files: Files) -> None:
    words = [*start(trained, "sft"), *files.options("sft"), *QUICK, "--trainer.max_epochs=2000"]
    command = [sys.executable, "-m", "lit_instruct.cli", "sft", "fit", "--run", str(tmp_path), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = tmp_path / "sft/logs/metrics.csv"
    for _ in range(600):
        if log.is_file() or process.poll() is not None:
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 130, out[-2000:]
    assert "--ckpt_path=last" in out
    assert "Traceback" not in out
    assert (tmp_path / "sft/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("callback", ["LearningRateMonitor", "tests.lit_instruct.stages.helpers.Watch"])
def test_one_callback_by_name(tmp_path: Path, tiny_model: Path, files: Files, callback: str) -> None:
    words = [f"--trainer.callbacks={callback}", "--trainer.max_epochs=1"]
    assert fit("sft", tmp_path, files, f"--model.base={tiny_model}", *words) == 0
    assert (tmp_path / "sft/stage.json").is_file()  # our own callbacks are there too


def test_home_folders_in_options_and_in_a_recipe(
    tmp_path: Path, trained: Path, tiny_model: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").symlink_to(files.sft.parent)
    (tmp_path / "base").symlink_to(tiny_model)
    recipe = tmp_path / "sft.yaml"
    recipe.write_text(f"run: ~/run\nmodel:\n  base: ~/base\ndata:\n  path: ~/data/{files.sft.name}\n")
    words = [f"--data.validation_path=~/data/{files.sft_validation.name}", "--trainer.max_epochs=1", *QUICK, *FLOAT]
    assert run("sft", "fit", "--config=~/sft.yaml", *words) == 0
    assert (tmp_path / "run/sft/stage.json").is_file()
    assert run("plan", "--config=~/sft.yaml") in (0, 1)
    scores = f"run: ~/scored/rm\ndata: {{path: ~/data/{files.rm.name}}}\nout: ~/scores.jsonl\n"
    (tmp_path / "scored").symlink_to(trained)
    (tmp_path / "scores.yaml").write_text(scores)
    assert run("rm", "score", "--config=~/scores.yaml") == 0
    assert (tmp_path / "scores.jsonl").is_file()
    given = ["--run=~/run", "--ckpt_path=~/run/sft/checkpoints/last.ckpt", "--trainer.max_epochs=2"]
    assert run("sft", "fit", "--config=~/sft.yaml", *words, *given) == 0
    assert json.loads((tmp_path / "run/sft/stage.json").read_text())["options"]["trainer"]["max_epochs"] == 2
