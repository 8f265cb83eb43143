"""Processes whose processors differ train in the precision of rank 0."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from lit_instruct.models.dtype import ChosenDtype
from lit_instruct.running.precision import DtypeOfRankZero, precision_of
from lit_instruct.stages.sft import SFTModule


def test_precision_of_a_dtype() -> None:
    assert (precision_of(torch.bfloat16), precision_of(torch.float32)) == ("bf16-mixed", "32-true")


@pytest.mark.parametrize(("derived", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_rank_1_takes_the_dtype_of_rank_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, derived: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(DDPStrategy, "is_global_zero", False)
    monkeypatch.setattr(DDPStrategy, "root_device", torch.device("cpu"))
    monkeypatch.setattr(DDPStrategy, "broadcast", lambda self, made: ChosenDtype("bfloat16", "of rank 0", "A", "f"))
    trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy="ddp", precision="32-true", logger=False)
    module = SFTModule()
    module.trainer = trainer
    DtypeOfRankZero(derived).setup(trainer, module, "fit")
    assert module.frozen_dtype == torch.bfloat16
    assert trainer.precision == precision
    with trainer.strategy.precision_plugin.forward_context():
        assert torch.is_autocast_enabled("cpu") == derived


def test_one_process_is_left_alone() -> None:
    trainer = lightning.Trainer(accelerator="cpu", devices=1, precision="32-true", logger=False)
    module = SFTModule()
    DtypeOfRankZero(True).setup(trainer, module, "fit")
    assert module.dtype_choice.made is None
