"""Checks precision and 8- and 4-bit options against stage, device and strategy, before anything is loaded."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy

from lit_instruct import lightning_private
from lit_instruct.errors import UserError
from lit_instruct.handover import bits_of
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.optimizers import OptimizerName
from lit_instruct.models.quantised import Quantisation, Quantize, check_bitsandbytes, quantisation


def check_precision(precision: str, stage: str) -> None:
    """Refuses precisions that a stage cannot train in.

    Args:
        precision: of the Trainer.
        stage: sft, rm or ppo.

    Raises:
        UserError: naming those that it can.
    """
    option = f"--trainer.precision={precision}"
    if precision == "16-mixed" and stage == "ppo":
        raise UserError(
            f"{option}: PPO runs its own backward passes, which the loss scaling of float16 does not see; use "
            "bf16-mixed or 32-true"
        )
    if precision not in ("32-true", "bf16-mixed", "16-mixed"):
        raise UserError(
            f"{option}: trained weights are always float32, and frozen ones are in --model.dtype; use bf16-mixed "
            "(products in bfloat16) or 32-true"
        )


def check_bits(quantize: Quantize, optimizer: OptimizerName, lora: LoraOptions | None, strategy: Strategy) -> None:
    """Refuses quantised bases and 8-bit optimizers that cannot work.

    Args:
        quantize: of the bases.
        optimizer: its name.
        lora: adapter options; None trains the weights of the base.
        strategy: of the Trainer, with its device.

    Raises:
        UserError: quantised weights would be trained or sharded, or bitsandbytes does not work here.
    """
    if quantize != "none":
        choice = f"--model.quantize={quantize}"
        if lora is None:
            raise UserError(f"{choice}: quantised weights cannot be trained; train adapters (--model.lora)")
        check_bitsandbytes(choice, strategy.root_device)
        if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
            raise UserError(
                f"{choice}: {type(strategy).__name__} shards weights, and quantised weights cannot be sharded; "
                "use --trainer.strategy=ddp, where every process has the small base, or --model.quantize=none"
            )
    if optimizer != "adamw":
        choice = f"--model.optimizer.name={optimizer}"
        check_bitsandbytes(choice, strategy.root_device)
        if isinstance(strategy, ModelParallelStrategy):
            raise UserError(
                f"{choice}: does not support the sharded weights of FSDP2; use --model.optimizer.name=adamw"
            )


def check_trainer(module: Any) -> None:
    """Refuses a Trainer whose precision, device or strategy a module cannot train with."""
    trainer = module.trainer
    check_precision(trainer.precision, module.stage)
    check_bits(module.quantize, module.optimizer_options.name, module.lora, trainer.strategy)


def quantised(module: Any) -> Quantisation | None:
    """Returns how a module's frozen bases are quantised, None if they are not."""
    bits_of(module.source, module.quantize)
    trainer = lightning_private.trainer_of(module)
    device = device_without_trainer() if trainer is None else trainer.strategy.root_device
    return quantisation(module.quantize, device, "--model.quantize")


def device_without_trainer() -> torch.device:
    """Returns where the weights of a module without a Trainer are prepared."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
