"""Run folders of lit-instruct 0.1.0 are read by every command, and a record of another version is one sentence."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.commands.chat import ChatOptions, chat
from lit_instruct.errors import UserError
from lit_instruct.evaluation.compare import evaluate
from lit_instruct.evaluation.options import EvalOptions
from lit_instruct.exporting.export import export
from lit_instruct.exporting.options import ExportOptions
from lit_instruct.handover import read_stage
from tests.lit_instruct.stages.helpers import FLOAT, Files, fit, run

RECORD: dict[str, Any] = {
    "metrics": {"val/loss": 0.5, "val/pair_accuracy": 0.75},
    "seed": 0,
    "seconds": 823.95,
    "peak_memory_gb": 1.73,
    "data": {
        "sources": {
            "path": {"read": 1139, "bad": 0, "refused": 0, "too_long": 0, "kept": 1139, "first_bad": None},
        },
        "train": 1139,
        "validation": 32,
        "removed": {"personal information": 0},
        "use_cases": {"generation": 0.4583},
    },
    "base_precision": "float32",
    "versions": {"lit-instruct": "0.1.0", "torch": "2.13.0+cpu", "trl": "1.16.0"},
    "created": "2026-11-27T16:28:10+00:00",
}
"""What 0.1.0 wrote, but for the fields that depend on the stage."""
LORA = {"r": 8, "alpha": 16.0, "dropout": 0.0, "targets": "all-linear", "top_layers": 2, "dora": False, "rslora": False}
OPTIONS: dict[str, Any] = {
    "sft": {"base": "smollm2-135m-instruct", "lora": LORA, "trl": {}, "dtype": "float32", "seed": 0},
    "rm": {"base": "runs/demo/sft", "lora": LORA, "shared_prompt": "auto", "dtype": "float32", "seed": 0},
    "ppo": {
        "base": "runs/demo/sft",
        "reward": "runs/demo/rm",
        "reward_function": None,
        "further_rewards": [],
        "labeler": None,
        "iterations": 13,
        "lora": LORA,
        "ppo": {"clip_range": 0.2, "value_clip_range": None, "kl_coef": 0.04, "kl_estimator": "k1", "minibatches": 2},
        "shaping": {"missing_eos_score": -1.0, "normalize_rewards": True, "value_coef": 1.0},
        "kl_control": {"target": None, "gain": None, "bound": 14.0, "on_bound": "stop"},
        "optimizer": {"name": "adamw", "learning_rate": 0.0015, "value_learning_rate": 0.0005},
        "sampling": {"max_new_tokens": 6, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "stop_ids": []},
        "dtype": "float32",
        "generation_batch_size": 32,
        "merge_for_rollouts": True,
        "value": "zero_head",
        "seed": 0,
    },
}
TRAINER = {"max_epochs": 1, "precision": "32-true", "strategy": "SingleDeviceStrategy", "optimizer_steps": 52}


@pytest.fixture
def old(run_folder: Path, tiny_model: Path) -> Path:
    """A run folder whose records are those of 0.1.0."""
    for minute, stage in enumerate(("sft", "rm", "ppo")):
        path = run_folder / stage / "stage.json"
        now = json.loads(path.read_text())
        record = RECORD | {
            "stage": stage,
            "base": {"source": str(tiny_model), "revision": None},
            "parents": {} if stage == "sft" else {"sft": "runs/demo/sft", "reward": "runs/demo/rm"},
            "prompt_format": now["prompt_format"],
            "reward_bias": now["reward_bias"],
            "options": {"model": OPTIONS[stage], "data": {"path": "rows.jsonl", "limit": None}, "trainer": TRAINER},
            "created": f"2026-11-27T16:{minute}8:10+00:00",
        }
        path.write_text(json.dumps(record, indent=2) + "\n")
    return run_folder


def test_the_record_is_read(old: Path) -> None:
    stage = read_stage(old / "ppo")
    assert stage is not None and stage.options is not None
    assert stage.options["model"]["ppo"]["kl_coef"] == 0.04
    assert stage.versions["lit-instruct"] == "0.1.0"


def test_every_command_reads_the_folder(old: Path, tmp_path: Path, files: Files) -> None:
    out = tmp_path / "out.jsonl"
    short = "--sampling.max_new_tokens=6"
    assert run("sample", "--run", old / "sft", "--data.path", files.ppo_validation, "--k=2", short, "--out", out) == 0
    assert run("rm", "score", "--run", old, f"--data.path={files.sft}", "--out", tmp_path / "scored.jsonl") == 0
    assert run("rm", "validate", "--run", old, f"--data.path={files.rm}", "--model.lora.top_layers=2", *FLOAT) == 0
    said = io.StringIO()
    chat(ChatOptions(str(old / "ppo"), max_new_tokens=6), stdin=io.StringIO("Hello\n"), stdout=said)
    assert said.getvalue().count("\n") == 1
    report = evaluate(EvalOptions(str(old), str(files.ppo_validation), limit=4, best_of=2, max_new_tokens=6))
    assert report["seconds"]["ppo"] == 823.95
    for stage in ("sft", "rm", "ppo"):
        card = (export(ExportOptions(str(old / stage), str(tmp_path / stage))) / "README.md").read_text()
        assert "lit-instruct 0.1.0" in card
    assert "| ppo | `model.ppo.kl_coef` | 0.04 |" in card


def test_a_new_stage_starts_from_the_folder(old: Path, files: Files) -> None:
    shutil.rmtree(old / "ppo")
    assert fit("ppo", old, files, "--model.iterations=1") == 0
    stage = read_stage(old / "ppo")
    assert stage is not None and stage.parents == {"sft": str(old / "sft"), "reward": str(old / "rm")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rollout_engine": "vllm"}, r"written by lit-instruct 9\.0 with unknown fields rollout_engine; "),
        ({"seed": None, "metrics": None}, r"written by lit-instruct 9\.0 without metrics, seed; "),
    ],
    ids=["unknown", "missing"],
)
def test_a_record_of_another_version_is_one_sentence(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    record = RECORD | {"stage": "sft", "base": {}, "parents": {}, "prompt_format": {}, "reward_bias": None} | change
    record = {name: value for name, value in record.items() if name not in change or value is not None}
    (tmp_path / "stage.json").write_text(json.dumps(record | {"versions": {"lit-instruct": "9.0"}}))
    with pytest.raises(UserError, match=rf"stage\.json: {message}use that version, or run the stage again$"):
        read_stage(tmp_path)
