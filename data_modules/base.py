"""What the three DataModules share: reading, splitting, length checks, loaders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, TypeVar

import lightning
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from data_modules.rows import Row, read_rows
from data_modules.sampling import EpochBatchSampler, StatefulLoader
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter

OnLong = Literal["error", "drop"]
RowT = TypeVar("RowT", bound=Row)
AnyRow = TypeVar("AnyRow", bound=Row)
Item = dict[str, Any]


class RowDataModule(lightning.LightningDataModule, Generic[RowT]):
    """Reads rows, splits them, tokenises them and serves them in batches.

    A subclass says what a row is (`row_type`), how a row becomes an item (`encode`), how items become a
    dataset (`as_dataset`) and how they become a batch (`collate`).
    """

    row_type: type[RowT]
    limit_option: str
    """Name of the option that bounds an item's tokens, for error messages."""
    drop_last = False
    """Whether every training batch must be full."""
    train_sampler: EpochBatchSampler
    """Cuts the training rows into batches; there once the Trainer has asked for them."""

    def __init__(
        self,
        path: str,
        validation_path: str | None,
        validation_share: float,
        limit_option: str,
        token_limit: int,
        on_long: OnLong,
        batch_size: int,
        seed: int,
        limit: int | None,
    ) -> None:
        super().__init__()
        check_option("batch_size", batch_size, batch_size >= 1, "at least 1")
        check_option("validation_share", validation_share, 0 <= validation_share < 1, "at least 0 and below 1")
        check_option(limit_option, token_limit, token_limit >= 1, "at least 1")
        check_option("limit", limit, limit is None or limit >= 1, "at least 1")
        check_option("on_long", on_long, on_long in ("error", "drop"), "error or drop")
        self.path = path
        self.validation_path = validation_path
        self.validation_share = validation_share
        self.limit_option = limit_option
        self.token_limit = token_limit
        self.on_long = on_long
        self.batch_size = batch_size
        self.seed = seed
        self.limit = limit
        self.prompter: Prompter | None = None
        """Set by hand, or else taken from the LightningModule in `setup`."""
        self.train_rows: list[RowT] = []
        self.validation_rows: list[RowT] = []
        self.train_dataset: Any = None
        self.validation_dataset: Any = None

    def encode(self, row: RowT) -> Item:
        """Turns one row into the token ids of a dataset item."""
        raise NotImplementedError

    def item_length(self, item: Item) -> int:
        """Tokens of an item that `token_limit` bounds."""
        raise NotImplementedError

    def as_dataset(self, items: list[Item]) -> Any:
        """Makes a dataset of items."""
        raise NotImplementedError

    def collate(self, items: list[Item]) -> Any:
        """Makes a batch of items."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Reads and tokenises both files, once.

        Raises:
            UserError: a file, a row or its length is wrong.
        """
        if self.train_dataset is not None:
            return
        train, validation = self.read()
        self.train_rows, train_items = self.encode_rows(train, self.encode)
        self.validation_rows, validation_items = self.encode_rows(validation, self.encode)
        if not train_items:
            raise UserError(f"{self.path}: no row is left to train on; see the messages above")
        self.train_dataset = self.as_dataset(train_items)
        self.validation_dataset = self.as_dataset(validation_items) if validation_items else None

    def read(self) -> tuple[list[RowT], list[RowT]]:
        """Rows for training and for validation, from two files or from one by `split_rows`."""
        rows = read_rows(self.path, self.row_type)[: self.limit]
        if self.validation_path is not None:
            return rows, read_rows(self.validation_path, self.row_type)
        return split_rows(rows, self.validation_share)

    def encode_rows(self, rows: list[AnyRow], encode: Callable[[AnyRow], Item]) -> tuple[list[AnyRow], list[Item]]:
        """Tokenises rows; those over the limit are an error or are dropped and counted."""
        kept: list[AnyRow] = []
        items: list[Item] = []
        for row in rows:
            item = _with_place(encode, row)
            if self.item_length(item) <= self.token_limit:
                kept.append(row)
                items.append(item)
            elif self.on_long == "error":
                raise UserError(self._too_long(row, self.item_length(item)))
        if len(kept) < len(rows):
            path = rows[0].where.rpartition(":")[0]
            rank_zero_info(
                f"{path}: dropped {len(rows) - len(kept)} of {len(rows)} rows "
                f"longer than {self.token_limit} tokens (--data.{self.limit_option})."
            )
        return kept, items

    def get_prompter(self) -> Prompter:
        """The prompter set by hand, or else the LightningModule's."""
        if self.prompter is None:
            if self.trainer is None:
                raise RuntimeError("set `prompter` on the DataModule, or attach it to a Trainer")
            self.prompter = self.trainer.lightning_module.prompter
        assert self.prompter is not None
        return self.prompter

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training rows."""
        loader = self.loader(self.train_dataset, self.collate, shuffle=True)
        self.train_sampler = loader.batch_sampler
        return loader

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Batches of the validation rows in order; an empty list where there are none."""
        if self.validation_dataset is None:
            return []
        return self.loader(self.validation_dataset, self.collate, shuffle=False)

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The validation batches: `test` measures a finished stage on them."""
        return self.val_dataloader()

    def loader(self, dataset: Any, collate: Callable[[list[Item]], Any], shuffle: bool) -> StatefulLoader:
        """This process's loader of a dataset."""
        drop_last = self.drop_last and shuffle
        size = self.process_batch_size()
        try:
            sampler = EpochBatchSampler(len(dataset), size, self.seed, self.rank, self.world_size, shuffle, drop_last)
        except UserError as error:
            path = self.path if shuffle or self.validation_path is None else self.validation_path
            raise UserError(f"{path}: {error}") from None
        return StatefulLoader(dataset, sampler, collate)

    def process_batch_size(self) -> int:
        """Rows of one process's batch."""
        return self.batch_size

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.trainer.world_size if self.trainer is not None else 1

    def _too_long(self, row: Row, length: int) -> str:
        what = "the prompt is" if self.limit_option == "max_prompt_length" else "prompt and response are"
        return (
            f"{row.where}: {what} {length} tokens long, over the limit of {self.token_limit}; raise "
            f"--data.{self.limit_option}, shorten the row, or leave such rows out with --data.on_long=drop"
        )


def check_option(name: str, value: Any, holds: bool, wanted: str) -> None:
    """Raises UserError "--data.<name>: ..." unless `holds`."""
    if not holds:
        raise UserError(f"--data.{name}: {value} is not possible; it must be {wanted}")


def split_rows(rows: list[RowT], share: float) -> tuple[list[RowT], list[RowT]]:
    """Splits off about `share` of the rows for validation, by a hash of the prompt.

    A prompt stays on its side when rows are added or reordered, and all rows of one prompt are on the same
    side. Where the hash picks none, the prompt with the lowest hash is taken, so that there is something to
    validate on.

    Args:
        rows: rows of one file.
        share: in [0, 1); 0 splits off nothing.
    """
    hashes = [_prompt_hash(row) for row in rows]
    distinct = sorted(set(hashes))
    if share == 0 or len(distinct) < 2:
        return rows, []
    # Neither side may be empty: the lowest hash always validates, the highest always trains.
    bound = min(max(share, distinct[0]), distinct[-2])
    train = [row for row, h in zip(rows, hashes, strict=True) if h > bound]
    validation = [row for row, h in zip(rows, hashes, strict=True) if h <= bound]
    return train, validation


def to_dataset(items: Iterable[Item]) -> Any:
    """A `datasets.Dataset` of items."""
    from datasets import Dataset  # imports slowly, and only SFT and RM need it

    return Dataset.from_list(list(items))


def _with_place(encode: Callable[[AnyRow], Item], row: AnyRow) -> Item:
    try:
        return encode(row)
    except UserError as error:  # such as a chat template that refuses these messages
        raise UserError(f"{row.where}: {error}") from error


def _prompt_hash(row: Row) -> float:
    """A number in [0, 1) that depends on the prompt alone."""
    digest = hashlib.sha256(json.dumps(row.prompt, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
