"""The Trainer's precision, which follows from the dtype of frozen weights, on one process or several."""

from __future__ import annotations

from typing import Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import distributed

from lit_instruct.stages.base import StageModule


def precision_of(dtype: torch.dtype) -> Literal["bf16-mixed", "32-true"]:
    """Returns the precision for a dtype of frozen weights; trained weights are always float32."""
    return "bf16-mixed" if dtype == torch.bfloat16 else "32-true"


class DtypeOfRankZero(Callback):
    """Gives every process the dtype of rank 0: processors of several nodes may differ.

    Args:
        derived: whether the Trainer's precision follows from the dtype.
    """

    def __init__(self, derived: bool) -> None:
        self.derived = derived

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Takes the dtype of rank 0, before the model is built."""
        if trainer.world_size == 1 or not distributed.is_initialized():
            return
        assert isinstance(pl_module, StageModule)
        precision = precision_of(pl_module.frozen_dtype)
        if self.derived and trainer.precision != precision:
            device = trainer.strategy.root_device.type
            plugin = MixedPrecision("bf16-mixed", device) if precision == "bf16-mixed" else Precision()
            trainer.strategy.precision_plugin = plugin
