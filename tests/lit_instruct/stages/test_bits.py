"""Options of 8 and 4 bits that cannot work are refused before anything is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)

from data_modules import PromptDataModule
from lit_instruct.errors import UserError
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.options import RewardOptions
from lit_instruct.stages.bits import check_bits, check_precision
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.stages.helpers import Files, fit, plain_trainer

LORA = LoraOptions()
CPU = SingleDeviceStrategy(torch.device("cpu"))


class Sharding(Strategy):
    """Some strategy on a CPU, without the processes and packages that it needs."""

    def __init__(self) -> None:
        pass

    @property
    def root_device(self) -> torch.device:
        """A CPU."""
        return torch.device("cpu")


def _like(kind: type[Strategy]) -> Strategy:
    return type(kind.__name__, (Sharding, kind), {})()


@pytest.mark.parametrize("strategy", [CPU, _like(DDPStrategy)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_what_works(quantize: Any, strategy: Strategy) -> None:
    check_bits(quantize, "lion_8bit", LORA, strategy)
    check_bits("none", "adamw_8bit", None, strategy)


@pytest.mark.parametrize(
    "strategy",
    [_like(FSDPStrategy), _like(ModelParallelStrategy)],
    ids=lambda s: type(s).__name__,
)
def test_quantised_weights_are_not_sharded(strategy: Strategy) -> None:
    check_bits("none", "adamw", LORA, strategy)
    with pytest.raises(UserError, match=r"^--model.quantize=4bit: \w+ shards weights, and quantised weights cannot be"):
        check_bits("4bit", "adamw", LORA, strategy)


def test_optimizers_do_not_take_weights_of_fsdp2() -> None:
    with pytest.raises(
        UserError, match=r"^--model.optimizer.name=adamw_8bit: does not support the sharded weights of FSDP2"
    ):
        check_bits("none", "adamw_8bit", LORA, _like(ModelParallelStrategy))
    check_bits("none", "adamw_8bit", LORA, _like(FSDPStrategy))


def test_an_unsupported_device() -> None:
    mps = SingleDeviceStrategy(torch.device("mps"))
    with pytest.raises(UserError, match=r"^--model.quantize=8bit: works on a CPU or a CUDA device, not on mps"):
        check_bits("8bit", "adamw", LORA, mps)
    with pytest.raises(UserError, match=r"^--model.optimizer.name=lion_8bit: works on a CPU or a CUDA device"):
        check_bits("none", "lion_8bit", LORA, mps)


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.quantize=4bit", "--model.lora=null"], "--model.quantize=4bit: quantised weights cannot be trained"),
        (["--model.quantize=3bit"], "3bit"),
        (["--model.optimizer.name=sgd"], "sgd"),
    ],
)
def test_every_stage_refuses_in_one_sentence(
    tmp_path: Path,
    files: Files,
    trained: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    options: list[str],
    message: str,
) -> None:
    start = {"sft": [f"--model.base={tiny_model}"], "rm": [f"--model.base={trained / 'sft'}"]}
    start["ppo"] = [*start["rm"], f"--model.reward.model={trained / 'rm'}"]
    assert fit(stage, tmp_path, files, *start[stage], *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("option", ["--model.quantize=8bit", "--model.optimizer.name=adamw_8bit"])
def test_a_missing_library(
    tmp_path: Path,
    files: Files,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert fit("sft", tmp_path, files, f"--model.base={tiny_model}", option) == 2
    assert f"{option}: needs bitsandbytes; install it with pip install" in capsys.readouterr().err


def test_compiled_code_with_adapters_that_take_turns(tmp_path: Path, files: Files, trained: Path) -> None:
    stage = PPOModule(str(trained / "sft"), 1, reward=RewardOptions(str(trained / "rm")), dtype="float32")
    data = PromptDataModule(str(files.ppo), validation_path=str(files.ppo_validation), batch_size=8)
    with pytest.raises(UserError, match=r"^torch.compile: adapters \(--model.lora\) take turns on one base"):
        plain_trainer(tmp_path, max_epochs=1).fit(torch.compile(stage), data)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true", "transformer-engine"])
def test_trained_weights_are_always_float32(precision: str) -> None:
    for stage in ("sft", "rm", "ppo"):
        with pytest.raises(UserError, match=rf"--trainer.precision={precision}: trained weights are always float32"):
            check_precision(precision, stage)


def test_the_loss_scaling_of_float16_does_not_see_the_backward_passes_of_ppo() -> None:
    for precision in ("32-true", "bf16-mixed", "16-mixed"):
        check_precision(precision, "sft")
        check_precision(precision, "rm")
    with pytest.raises(UserError, match=r"--trainer.precision=16-mixed: PPO runs its own backward passes"):
        check_precision("16-mixed", "ppo")


def test_a_precision_is_refused_before_anything_is_loaded(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    module = PPOModule(str(tiny_model), reward=RewardOptions(None, "tests.lit_instruct.stages.rewards.letters"))
    data = PromptDataModule(str(files.ppo), validation_share=0.0, batch_size=8)
    with pytest.raises(UserError, match=r"--trainer.precision=bf16-true"):
        plain_trainer(tmp_path, max_epochs=-1, precision="bf16-true").fit(module, data)
    assert not hasattr(module, "roles")
