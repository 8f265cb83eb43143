"""Datasets -> the batches of this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
from torch.utils.data import DataLoader

from data_modules.batching.sampling import EpochBatchSampler, StatefulLoader
from lit_instruct.errors import UserError


class BatchLoaders(lightning.LightningDataModule):
    """Serves `train_dataset` and `validation_dataset`, which a subclass sets, in batches.

    Args:
        path: of the training rows, for messages.
        validation_path: of the validation rows, for messages.
        batch_size: rows per batch and process.
        seed: determines the order of the training rows.
    """

    drop_last = False
    """Whether every training batch must be full."""
    train_sampler: EpochBatchSampler
    """Splits the training rows into batches; set once the Trainer has requested them."""

    def __init__(self, path: str, validation_path: str | None, batch_size: int, seed: int) -> None:
        super().__init__()
        check_option("batch_size", batch_size, batch_size >= 1, "at least 1")
        self.path = path
        self.validation_path = validation_path
        self.batch_size = batch_size
        self.seed = seed
        self.train_dataset: Any = None
        self.validation_dataset: Any = None

    def collate(self, items: list[Any]) -> Any:
        """Makes a batch from items."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training rows."""
        loader = self.loader(self.train_dataset, self.collate, shuffle=True)
        self.train_sampler = loader.batch_sampler
        return loader

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Batches of the validation rows in order; an empty list if there are none."""
        if self.validation_dataset is None:
            return []
        return self.loader(self.validation_dataset, self.collate, shuffle=False)

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The validation batches: `test` evaluates a finished stage on them."""
        return self.val_dataloader()

    def loader(self, dataset: Any, collate: Callable[[list[Any]], Any], shuffle: bool) -> StatefulLoader:
        """The loader of a dataset for this process."""
        drop_last = self.drop_last and shuffle
        size = self.process_batch_size()
        try:
            sampler = EpochBatchSampler(len(dataset), size, self.seed, self.rank, self.world_size, shuffle, drop_last)
        except UserError as error:
            path = self.path if shuffle or self.validation_path is None else self.validation_path
            raise UserError(f"{path}: {error}") from None
        return StatefulLoader(dataset, sampler, collate)

    def process_batch_size(self) -> int:
        """Rows per batch on one process."""
        return self.batch_size

    @property
    def rank(self) -> int:
        """Index of this process."""
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.trainer.world_size if self.trainer is not None else 1


def check_option(name: str, value: Any, holds: bool, wanted: str) -> None:
    """Raises UserError "--data.<name>: ..." unless `holds`."""
    if not holds:
        raise UserError(f"--data.{name}: {value} is not possible; it must be {wanted}")
