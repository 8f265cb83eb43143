"""Strategies that cannot work are refused in one sentence, at start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
)

from lit_instruct.errors import UserError
from lit_instruct.models.lora import LoraOptions
from lit_instruct.running.processes import SameOnEveryRank, check_strategy, fsdp2, lost_process
from lit_instruct.stages.ppo import PPOModule
from lit_instruct.stages.reward import RewardModule
from lit_instruct.stages.sft import SFTModule
from tests.lit_instruct.stages.helpers import Files, run, snapshot


class Zero(DeepSpeedStrategy):
    """DeepSpeed's strategy, whose constructor wants a GPU, with its configuration alone."""

    def __init__(self, zero: int) -> None:
        self.config = {"zero_optimization": {"stage": zero}}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--trainer.strategy=fsdp"], "requires a GPU"),
        (["--trainer.strategy=fsdp2"], "--model.lora=null"),
        (["--trainer.strategy=fsdp2", "--model.lora=null", "--trainer.devices=auto"], "--trainer.devices"),
        (["--trainer.strategy=deepspeed_stage_2"], "DeepSpeed is not supported"),
        (["--trainer.strategy=lightning.pytorch.strategies.DeepSpeedStrategy"], "DeepSpeed is not supported"),
        (["--trainer.strategy=ddp_spawn"], "spawn"),
        (["--trainer.strategy=nonsense"], "nonsense"),
        (["--trainer.strategy=fsdp2", "--model.quantize=4bit"], "--trainer.strategy=fsdp2"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_a_strategy_that_cannot_work(
    tmp_path: Path, tiny_model: Path, files: Files, capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    devices = [] if "devices" in options[-1] else ["--trainer.devices=2"]
    words = [*files.options("sft"), f"--model.base={tiny_model}", "--trainer.accelerator=cpu", *devices, *options]
    assert run("sft", "fit", "--run", tmp_path / "run", *words) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "lit-instruct: error:" in line]
    assert len(said) == 1
    assert named in said[0]
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("module", [SFTModule, RewardModule, PPOModule], ids=["sft", "rm", "ppo"])
def test_fsdp2_is_for_all_weights_of_every_stage(module: Any) -> None:
    check_strategy(fsdp2(2, 1), module(lora=None))
    with pytest.raises(UserError, match="--trainer.strategy=fsdp2.*--model.lora=null"):
        check_strategy(fsdp2(2, 1), module(lora=LoraOptions()))
    with pytest.raises(UserError, match="folders of shards as checkpoints .* use --trainer.strategy=fsdp2"):
        check_strategy(ModelParallelStrategy(2, 1), module(lora=None))


@pytest.mark.parametrize("module", [SFTModule, RewardModule, PPOModule], ids=["sft", "rm", "ppo"])
@pytest.mark.parametrize("zero", [2, 3])
def test_deepspeed_is_refused(module: Any, zero: int) -> None:
    with pytest.raises(UserError, match=r"DeepSpeed is not supported.*use fsdp2 with --model.lora=null.*or ddp"):
        check_strategy(Zero(zero), module(lora=None))


def test_fsdp1() -> None:
    with pytest.raises(UserError, match="use fsdp2"):
        check_strategy(FSDPStrategy(), SFTModule(lora=None))


def test_tensor_parallelism() -> None:
    with pytest.raises(UserError, match="tensor parallelism"):
        check_strategy(ModelParallelStrategy(1, 2), SFTModule(lora=None))


def test_fsdp2_spans_all_processes_and_writes_one_file() -> None:
    strategy = fsdp2(4, 2)
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (8, 1)
    assert not strategy._save_distributed_checkpoint
    assert fsdp2([0, 3], 1)._data_parallel_size == 2


class Trainer:
    """What the comparison of ranks asks a Trainer for."""

    world_size = 2
    global_step = max_epochs = max_steps = accumulate_grad_batches = num_nodes = 1
    gradient_clip_val = datamodule = None
    precision = "32-true"
    strategy = DDPStrategy()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"--model.lora.r": 8}, r"rank 1 has --model\.lora\.r=8 where rank 0 has 16"),
        ({"rows of train_dataset": 3}, "rank 1 has rows of train_dataset=3 where rank 0 has 0"),
        ({"version of torch": "1.0"}, r"rank 1 has version of torch=1\.0"),
        ({"--data.batch_size": 3}, r"rank 1 has --data\.batch_size=3 where rank 0 has nothing"),
    ],
)
def test_ranks_that_differ_are_named_with_the_option(
    monkeypatch: pytest.MonkeyPatch, other: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)

    def gather(everywhere: list[Any], facts: dict[str, Any]) -> None:
        everywhere[:] = [facts, facts | other]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(UserError, match=said):
        SameOnEveryRank().setup(Trainer(), SFTModule(lora=LoraOptions()), "fit")  # type: ignore[arg-type]


def test_equal_ranks_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)

    def gather(everywhere: list[Any], facts: dict[str, Any]) -> None:
        everywhere[:] = [facts, dict(facts)]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    SameOnEveryRank().setup(Trainer(), SFTModule(), "fit")  # type: ignore[arg-type]


def test_what_a_lost_process_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    late = "[../gloo/pair.cc:81] Timed out waiting 5000ms for recv operation to complete"
    said = lost_process(RuntimeError(f"{late}\nmore"))
    assert said is not None
    assert str(said).startswith(
        "rank 3: another process ended, did not start or did not answer in time (Timed out waiting 5000ms for"
    )
    assert "more" not in str(said)
    assert lost_process(torch.distributed.DistStoreError("Timed out after 2 seconds waiting for clients")) is not None
    assert lost_process(RuntimeError("shapes do not fit")) is None
    assert lost_process(ValueError("gloo")) is None
