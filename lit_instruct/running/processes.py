"""Several processes: supported strategies, equal options on every rank, and errors instead of hangs."""

from __future__ import annotations

import os
import re
from typing import Any

import lightning
import torch
from lightning.pytorch import strategies
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy, Strategy
from torch import distributed

from lit_instruct import lightning_private
from lit_instruct.collectives import gather_objects
from lit_instruct.errors import UserError
from lit_instruct.machine import package_versions
from lit_instruct.planning.options import flat
from lit_instruct.stages.base import StageModule
from lit_instruct.stages.given import data_options, trainer_options

FSDP2 = "fsdp2"
"""Our name in --trainer.strategy for Lightning's ModelParallelStrategy with all processes in one group."""
NO_DEEPSPEED = (
    "DeepSpeed is not supported, since it keeps gradients, weights and checkpoints in forms of its own; use fsdp2 with "
    "--model.lora=null, which shards everything as ZeRO-3 does, or ddp with LoRA"
)
LOST = ("gloo", "Connection reset", "Connection closed", "Timed out", "Broken pipe", "NCCL")
"""Words in torch's errors if another process has died or is late."""


def fsdp2(devices: Any, num_nodes: int) -> ModelParallelStrategy:
    """Returns FSDP2 over all processes, with one file per checkpoint, for the Trainer's `devices` and `num_nodes`.

    Raises:
        UserError: the number of devices is unknown.
    """
    count = torch.cuda.device_count() if devices in ("auto", -1, "-1") else devices
    count = len(count) if isinstance(count, list) else count
    if not str(count).isdigit() or int(count) < 1:
        raise UserError(f"--trainer.strategy=fsdp2: needs a number of devices, not {devices!r}; give --trainer.devices")
    return ModelParallelStrategy(int(count) * num_nodes, 1, save_distributed_checkpoint=False)


def check_strategy(strategy: Strategy, module: StageModule) -> None:
    """Refuses strategies that a stage cannot train with, before any process waits for another.

    Raises:
        UserError: the strategy is not supported, or not with this stage or LoRA.
    """
    if isinstance(strategy, DeepSpeedStrategy):
        raise UserError(f"--trainer.strategy: {NO_DEEPSPEED}")
    if isinstance(strategy, strategies.FSDPStrategy):
        raise UserError("--trainer.strategy=fsdp: FSDP1 is not supported; use fsdp2, or ddp for LoRA")
    if isinstance(strategy, ModelParallelStrategy):
        if lightning_private.tensor_parallel_size(strategy) != 1:
            raise UserError("--trainer.strategy: tensor parallelism is not supported; use --trainer.strategy=fsdp2")
        if lightning_private.saves_shards(strategy):
            raise UserError(
                "--trainer.strategy: folders of shards as checkpoints are not supported, because torch reads them with "
                "pickle, which can run code; use --trainer.strategy=fsdp2, or add save_distributed_checkpoint=false"
            )
        if module.lora is not None:
            raise UserError(
                "--trainer.strategy=fsdp2: shards weights only if all are trained; add --model.lora=null, or use "
                "--trainer.strategy=ddp with LoRA"
            )
    elif not isinstance(strategy, strategies.SingleDeviceStrategy | strategies.DDPStrategy):
        name = type(strategy).__name__
        raise UserError(f"--trainer.strategy: {name} is not supported; use ddp or fsdp2")
    started = lightning_private.start_method(strategy)
    if started != "popen":
        raise UserError(f"--trainer.strategy: {started} cannot start this command in other processes; use ddp")


class SameOnEveryRank(Callback):
    """Refuses to train if processes have different options, rows or versions.

    It runs before the model is built: later, different shapes could make one process wait for another forever.
    """

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Compares every process with rank 0."""
        if trainer.world_size == 1 or not distributed.is_initialized():
            return
        assert isinstance(pl_module, StageModule)
        everywhere = gather_objects(_facts(trainer, pl_module), trainer.world_size)
        for rank, theirs in enumerate(everywhere[1:], start=1):
            for name in sorted({*everywhere[0], *theirs}):
                ours, other = (found.get(name, "nothing") for found in (everywhere[0], theirs))
                if ours != other:
                    raise UserError(
                        f"rank {rank} has {name}={other} where rank 0 has {ours}; start every process with the same "
                        "command, files and packages"
                    )


def _facts(trainer: lightning.Trainer, module: StageModule) -> dict[str, Any]:
    """Everything that must be equal on all ranks, by name."""
    data = getattr(trainer, "datamodule", None)
    options = {"model": module.given, "data": data_options(data), "trainer": trainer_options(trainer)}
    facts = {f"--{name}": value for name, value in flat(options).items()}
    for name in ("train_dataset", "validation_dataset"):
        rows = getattr(data, name, None)
        facts[f"rows of {name}"] = len(rows) if rows is not None else 0
    return facts | {f"version of {name}": found for name, found in package_versions().items()}


def lost_process(error: BaseException) -> UserError | None:
    """Returns the error for the user if another process has died or is late; None for any other error."""
    text = str(error).strip()
    if not isinstance(error, distributed.DistError | RuntimeError) or not any(word in text for word in LOST):
        return None
    said = re.sub(r"^\[\S+\] ", "", text.splitlines()[0]).partition(". ")[0]  # without gloo's source line
    return UserError(
        f"rank {current_rank()}: another process ended, did not start or did not answer in time ({said}); see the "
        "output of that process, or the system log if it was killed"
    )


def current_rank() -> int:
    """Returns the rank of this process; 0 if it is alone."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)
