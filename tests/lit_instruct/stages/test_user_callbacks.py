"""Callbacks and loggers of Lightning and of a user, with plain loaders and the Trainer's defaults."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lit_instruct import RewardModule, SFTModule
from lit_instruct.models.lora import LoraOptions
from tests.lit_instruct.stages.helpers import comparisons, demonstrations


class Count(Callback):
    """A user's callback."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1


@pytest.mark.parametrize(("kind", "rows"), [(SFTModule, demonstrations), (RewardModule, comparisons)])
def test_they_work(kind: Any, rows: Any, tmp_path: Path, tiny_model: Path) -> None:
    best, count = ModelCheckpoint(tmp_path / "best", monitor="val/loss"), Count()
    callbacks = [best, count, EarlyStopping("val/loss"), LearningRateMonitor("step")]
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=2,
        log_every_n_steps=1,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        logger=CSVLogger(tmp_path, name="", version=""),
        callbacks=callbacks,
    )
    module = kind(base=tiny_model, lora=LoraOptions(top_layers=1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, DataLoader(rows(8), batch_size=2), DataLoader(rows(4, 1), batch_size=2))
    ours = ("eval mode", "is_gradient_checkpointing", "gradient_checkpointing", "Total length")
    assert not [str(one.message) for one in caught if any(word in str(one.message) for word in ours)]
    assert (trainer.global_step, count.batches) == (4, 8)
    with (tmp_path / "metrics.csv").open() as file:
        assert {"train/loss", "val/loss"} <= set(next(csv.reader(file)))
    assert kind.load_from_checkpoint(best.best_model_path).stage == module.stage
