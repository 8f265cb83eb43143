"""What breaks when Lightning, PEFT or TRL change a private attribute that we use: read this when raising a version."""

from __future__ import annotations

import inspect
from pathlib import Path

import lightning
import pytest
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from trl import SFTTrainer

from lit_instruct import lightning_private
from lit_instruct.models import peft_private


@pytest.fixture(scope="module")
def trainer() -> lightning.Trainer:
    return lightning.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("_batches_that_stepped", int, "the rows of metrics.csv get another step after a resume"),
        ("_should_accumulate", None, "last.ckpt is written between two batches of one optimizer step"),
        ("_num_ready_batches_reached", None, "last.ckpt of the end of an epoch is that of the step before it"),
        ("_should_check_val_fx", None, "last.ckpt of a finished training holds a validation that a longer one lacks"),
    ],
)
def test_loop_of_an_epoch(trainer: lightning.Trainer, name: str, kind: type | None, sentence: str) -> None:
    found = getattr(trainer.fit_loop.epoch_loop, name, None)
    assert callable(found) if kind is None else type(found) is kind, f"Lightning changed {name}: {sentence}"


def test_dump_of_a_checkpoint(trainer: lightning.Trainer) -> None:
    found = getattr(getattr(trainer, "_checkpoint_connector", None), "dump_checkpoint", None)
    assert callable(found), "Lightning changed dump_checkpoint: no last.ckpt is written"


def test_step_of_the_log_can_be_set(trainer: lightning.Trainer) -> None:
    lightning_private.set_logged_steps(trainer, 3)
    assert lightning_private.logged_steps(trainer) == 3


def test_results_of_a_step(trainer: lightning.Trainer) -> None:
    changed = "Lightning changed _results: the row of an iteration that took no step has the losses of the one before"
    assert hasattr(type(trainer), "_results"), changed
    assert list(inspect.signature(trainer.fit_loop.epoch_loop._results.reset).parameters) == ["metrics", "fx"], changed


def test_trainer_of_a_module(trainer: lightning.Trainer) -> None:
    module = lightning.LightningModule()
    assert lightning_private.trainer_of(module) is None, "Lightning changed _trainer: stage.json lacks its options"
    module.trainer = trainer
    assert lightning_private.trainer_of(module) is trainer, "Lightning changed _trainer: stage.json lacks its options"


def test_compiled_module() -> None:
    changed = "Lightning changed _compiler_ctx: PPO with LoRA trains on a compiled module without an error"
    module = lightning.LightningModule()
    assert not lightning_private.is_compiled(module), changed
    module._compiler_ctx = {}
    assert lightning_private.is_compiled(module), changed


def test_strategies() -> None:
    sharded = ModelParallelStrategy(2, 1, save_distributed_checkpoint=False)
    found = lightning_private.saves_shards(sharded)
    assert found is False, "Lightning changed _save_distributed_checkpoint: folders of shards are not refused"
    found = lightning_private.tensor_parallel_size(sharded)
    assert found == 1, "Lightning changed _tensor_parallel_size: tensor parallelism is not refused"
    found = lightning_private.start_method(DDPStrategy(start_method="spawn"))
    assert found == "spawn", "Lightning changed _start_method: a strategy that cannot start the command is not refused"


@pytest.mark.parametrize(
    ("owner", "name", "sentence"),
    [
        (LightningCLI, "_get", "no stage reads its options"),
        (LightningCLI, "_run_subcommand", "out of memory ends without advice"),
        (LightningCLI, "_parse_ckpt_path", "a checkpoint overrides the command line and names code to import"),
        (LightningCLI, "_prepare_subcommand_kwargs", "--ckpt_path=last is not found"),
        (ExperimentWriter, "_rewrite_with_new_header", "a killed run can lose metrics.csv"),
        (ExperimentWriter, "_check_log_dir_exists", "metrics.csv starts over when a run resumes"),
    ],
)
def test_methods_that_we_override_or_call(owner: type, name: str, sentence: str) -> None:
    assert callable(getattr(owner, name, None)), f"Lightning changed {name}: {sentence}"


def test_writer_of_metrics(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    assert getattr(logger, "_experiment", 0) is None, "Lightning changed _experiment: metrics.csv is that of Lightning"


def test_adapters_of_a_layer() -> None:
    layer = LoraLinear(nn.Linear(3, 3), "one", LoraConfig(r=2), r=2)
    trained = [parameter.requires_grad for parameter in layer.parameters()]
    peft_private.activate(layer, "one")
    changed = "PEFT changed _active_adapter: a role computes with another role's adapter"
    assert layer.active_adapters == ["one"], changed
    peft_private.activate(layer, None)
    changed = "PEFT changed _disable_adapters: the reference computes with the policy's adapter, and KL is 0"
    assert layer.disable_adapters, changed
    peft_private.disable(layer, False)
    assert not layer.disable_adapters, changed
    assert [parameter.requires_grad for parameter in layer.parameters()] == trained


def test_kept_norm_of_dora() -> None:
    layer = LoraLinear(nn.Linear(3, 3), "one", LoraConfig(r=2), r=2)
    layer._cache_store("one-weight_norm", 1)
    peft_private.drop_weight_norm(layer, "one")
    assert layer._caches == {}, "PEFT changed _cache_pop: DoRA keeps a norm of every merged layer in memory"


def test_metrics_of_sft() -> None:
    assert "_metrics" in SFTTrainer.compute_loss.__code__.co_names, "TRL changed _metrics: SFT has no token accuracy"
