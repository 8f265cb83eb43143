"""Everything of the GPU check that a machine without a GPU can run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import RECIPES, main, mfu, planned, recipes, rows_needed, words_of
from benchmarks.gpu_paths import attention_kernel, mixed_precision, shared_prompts
from benchmarks.gpu_work import DeviceWork
from benchmarks.plan import described
from benchmarks.random_models import byte_tokenizer, write_model, write_rows
from lit_instruct.batches import PromptBatch
from lit_instruct.planning.rates import file_name
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.stages.helpers import run


def test_it_knows_the_recipes_for_one_card() -> None:
    assert {"gpu-8gb", "gpu-12gb", "gpu-12gb-8bit", "gpu-16gb", "gpu-24gb", "gpu-24gb-bf16"} <= set(recipes())
    assert all((RECIPES / name).is_dir() for name in recipes())
    assert file_name("gpu-24gb") == "gpu-24gb.json" and file_name("paper") == "gpu-paper.json"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_it_says_that_there_is_no_gpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    assert main() == 2
    assert capsys.readouterr().err == "gpu-check: no CUDA device here; run it on a machine that has one\n"


def test_the_share_of_the_devices_products() -> None:
    plan = planned("gpu-24gb", "sft")
    assert mfu(plan, 1000.0, "NVIDIA H100 80GB HBM3") == round(4 * 8_030_261_248 * 1000 / 989e12, 4)
    assert mfu(plan, 1000.0, "another") is None
    assert rows_needed(plan) == 3 * plan.work.rows * plan.work.passes


def test_rows_have_the_length_that_was_asked_for(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    rows = write_rows(tmp_path / "rows.jsonl", "sft", 3, 50).read_text().splitlines()
    for row in rows:
        fields = json.loads(row)
        assert len(tokenizer(fields["prompt"] + fields["response"])["input_ids"]) + 1 == 50  # with the end


def test_paths_agree_where_this_machine_has_them(tmp_path: Path) -> None:
    small = described((64, 128, 2, 4))
    folder = write_model(tmp_path / "model", small | {"vocab_size": 4096})
    assert mixed_precision(folder, "cpu") < 0.02
    assert attention_kernel(folder, "cpu") < 1e-4
    assert shared_prompts(folder, "cpu") < 1e-3


def test_a_recipe_runs_as_the_check_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it but the device: the recipe's own options with a small base."""
    monkeypatch.chdir(RECIPES.parent)
    monkeypatch.setattr(gpu_check, "STEPS", 2)
    base = write_model(tmp_path / "base", described((64, 128, 2, 4)))
    rows = write_rows(tmp_path / "rows.jsonl", "sft", 12, 100)
    words = words_of("gpu-8gb", "sft", base, rows, tmp_path / "run")
    assert run("sft", "fit", *words, "--trainer.accelerator=cpu", "--trainer.accumulate_grad_batches=1") == 0
    assert DeviceWork.result["steps"] == 1
    assert DeviceWork.result["tokens"] == 4 * 100
    assert DeviceWork.result["seconds_per_step"] > 0


def test_tokens_of_ppo_are_those_of_prompts_and_full_responses() -> None:
    module = PPOModule("somewhere", sampling=SamplingOptions(max_new_tokens=5))
    mask = torch.tensor([[False, True, True], [True, True, True]])
    batch = PromptBatch(torch.zeros_like(mask).long(), mask, torch.arange(2), [None, None])
    work, trainer = DeviceWork(), SimpleNamespace(global_step=0)
    work.on_train_start(trainer, module)
    for trainer.global_step in (1, 2):
        work.on_train_batch_end(trainer, module, None, batch, 0)
    assert DeviceWork.result["steps"] == 1
    assert DeviceWork.result["tokens"] == 5 + 2 * 5
