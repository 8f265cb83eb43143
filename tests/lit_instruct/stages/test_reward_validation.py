"""Validation of the reward stage: every row once, whatever the batches and processes, and `rm validate`'s report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data_modules import RankedComparisonDataModule
from lit_instruct.evaluation.reward_measures import calibration_error, ranked_pairs
from lit_instruct.stages.reward import RewardModule
from tests.lit_instruct.stages.helpers import (
    FLOAT,
    QUICK,
    SMALL,
    Files,
    comparisons,
    plain_trainer,
    run,
    write_rows,
)


def validated(folder: Path, model: Path, rows: Path, **options: Any) -> tuple[RewardModule, dict[str, float]]:
    """An untrained reward model after validation, and what it logged."""
    stage = RewardModule(str(model), dtype="float32")
    data = RankedComparisonDataModule(str(rows), validation_path=str(rows), **options)
    return stage, plain_trainer(folder).validate(stage, data, verbose=False)[0]


def test_rewards_stand_in_the_order_of_rows_and_responses(tmp_path: Path, tiny_model: Path) -> None:
    given = comparisons(9)
    rows = write_rows(tmp_path / "rows.jsonl", given)
    for size in (1, 4):
        stage, _ = validated(tmp_path, tiny_model, rows, batch_size=size)
        found = stage.validation_rewards()
        assert list(found) == list(range(9))
        stage.network.eval()
        for row, rewards in zip(given, found.values(), strict=True):
            prompt = stage.prompter.prompt_ids(row["prompt"])
            sequences = [prompt + stage.prompter.response_ids(text) for text in row["responses"]]
            with torch.no_grad():
                expected = [stage.network(input_ids=torch.tensor([ids])).logits.item() for ids in sequences]
            assert rewards == pytest.approx(expected, abs=1e-5)


def test_calibration_is_over_all_pairs(tmp_path: Path, tiny_model: Path) -> None:
    given = comparisons(12)
    rows = write_rows(tmp_path / "rows.jsonl", given)
    for size in (1, 5):
        stage, logged = validated(tmp_path, tiny_model, rows, batch_size=size)
        pairs = ranked_pairs(list(stage.validation_rewards().values()), [row["ranks"] for row in given])
        assert logged["val/calibration_error"] == pytest.approx(calibration_error(pairs.margin), abs=1e-5)


def test_validation_of_a_part_reports_that_part(tmp_path: Path, tiny_model: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", comparisons(9))
    stage = RewardModule(str(tiny_model), dtype="float32")
    data = RankedComparisonDataModule(str(rows), validation_path=str(rows), batch_size=2)
    plain_trainer(tmp_path, limit_val_batches=2).validate(stage, data, verbose=False)
    assert list(stage.validation_rewards()) == [0, 1, 2, 3]


def words(folder: Path, files: Files, *more: Any) -> list[Any]:
    """`rm validate` of the trained run, on rows that name use case and labeler."""
    rows = [{**row, "use_case": "<b>chat", "labeler": f"l{i % 2}"} for i, row in enumerate(comparisons(5, 1))]
    path = write_rows(folder / "named.jsonl", rows)
    short = [word for word in SMALL["rm"] if not word.startswith("--trainer.")]
    data = [f"--data.path={files.rm}", f"--data.validation_path={path}"]
    return ["rm", "validate", "--run", folder / "tiny", *data, *short, "--model.lora.top_layers=2", *FLOAT, *more]


def test_rm_validate_writes_a_report(run_folder: Path, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    shown = [f"--data.demonstrations_path={files.sft}"]
    assert run(*words(run_folder.parent, files, *QUICK, *shown)) == 0
    printed = capsys.readouterr().out
    folder = run_folder / "rm"
    report = json.loads((folder / "validation.json").read_text())
    record = json.loads((folder / "stage.json").read_text())
    assert report["pair_accuracy"]["value"] == pytest.approx(record["metrics"]["val/pair_accuracy"])
    assert report["loss"] == pytest.approx(record["metrics"]["val/loss"])
    assert (report["checkpoint"], report["rows"]) == ("best.ckpt", 5)
    for group in ("by_k", "by_rank_distance", "by_use_case", "by_labeler"):
        assert sum(one["pairs"] for one in report[group].values()) == report["pairs"]
    assert list(report["by_use_case"]) == ["<b>chat"]
    assert list(report["by_labeler"]) == ["l0", "l1"]
    shown = report["demonstrations"]
    assert shown["count"] == 20
    assert shown["mean_before_bias"] == pytest.approx(-record["reward_bias"], abs=1e-5)
    assert shown["mean_after_bias"] == pytest.approx(0, abs=1e-5)
    page = (folder / "validation.html").read_text()
    assert "<b>chat" not in page
    assert page.count("<svg") == 6
    assert f"{report['pair_accuracy']['value']:.3f}" in printed
    assert all(str(folder / name)[:30] in printed for name in ("validation.json", "validation.html"))
    assert [path.name for path in folder.glob(".writing*")] == []


def test_rewardbench_is_scored_by_subset(run_folder: Path, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows in the layout of allenai/reward-bench."""
    models = {"chosen_model": "human", "rejected_model": "buggy"}
    subsets = ["hep-go", "refusals-offensive", "hep-go"]
    rows = [
        {"prompt": f"Prompt {i}", "chosen": "A fish", "rejected": "A", **models, "subset": subset, "id": i}
        for i, subset in enumerate(subsets)
    ]
    path = write_rows(run_folder.parent / "bench.jsonl", rows)
    assert run(*words(run_folder.parent, files, *QUICK, f"--data.validation_path={path}")) == 0
    report = json.loads((run_folder / "rm/validation.json").read_text())
    assert {name: one["rows"] for name, one in report["by_subset"].items()} == {"hep-go": 2, "refusals-offensive": 1}
    assert "subset: refusals-offensive" in capsys.readouterr().out
    assert "Pair accuracy by subset" in (run_folder / "rm/validation.html").read_text()


def test_without_demonstrations_there_is_no_mean_of_them(run_folder: Path, files: Files) -> None:
    assert run(*words(run_folder.parent, files, *QUICK)) == 0
    report = json.loads((run_folder / "rm/validation.json").read_text())
    assert report["demonstrations"] is None
    assert "none given" in (run_folder / "rm/validation.html").read_text()


def test_test_and_fast_dev_run_write_no_report(run_folder: Path, files: Files) -> None:
    assert run(*words(run_folder.parent, files, *QUICK, "--trainer.fast_dev_run=1")) == 0
    given = words(run_folder.parent, files, *QUICK)
    assert run("rm", "test", *given[2:]) == 0
    assert not list((run_folder / "rm").glob("validation.*"))


@pytest.mark.slow
def test_two_processes_report_what_one_reports(run_folder: Path, files: Files, tmp_path: Path) -> None:
    path = run_folder / "rm/validation.json"
    shown = [f"--data.demonstrations_path={files.sft}", "--data.batch_size=2"]
    given = words(run_folder.parent, files, *shown)
    assert run(*given, *QUICK) == 0
    one = json.loads(path.read_text())
    parallel = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", QUICK[0]]
    command = [sys.executable, "-m", "lit_instruct.cli", *map(str, given), *parallel]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("validation.html") == 1
    two = json.loads(path.read_text())
    for report in (one, two):
        report.pop("date")
    assert _close(one, two)


def _close(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same up to rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_close(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return bool(one == (pytest.approx(other, abs=2e-5) if isinstance(one, float) else other))
