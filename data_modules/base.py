"""Base of the three DataModules: checks options, and reads, splits and tokenises rows into the cache."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import lightning
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from data_modules.batching.sampling import EpochBatchSampler, StatefulLoader
from data_modules.hygiene.facts import SplitFacts
from data_modules.reading.bad_rows import OnBadRow
from data_modules.reading.readers import notes_on_splits
from data_modules.reading.sources import has_weights, split_of
from data_modules.rows import OnLong, Row, check_format
from data_modules.tables.arrow import Item, LazyRows, open_table
from data_modules.tables.build import TRAIN, VALIDATION, Reading, Report, TableInput, bad_rows_file, build_tables
from data_modules.tables.cache import Built, find_or_build
from data_modules.tables.fingerprints import code_version, content_of, digests
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter

RowT = TypeVar("RowT", bound=Row)


class RowDataModule(lightning.LightningDataModule, Generic[RowT]):
    """Reads rows, splits them, tokenises them and serves them in batches.

    A subclass defines the row type (`row_type`), how rows become items (`encode_batch`) and how items become a batch
    (`collate`). Rows and items are kept in cache files, which later runs reuse unless a file's content, the tokenizer,
    an option or this code has changed. Memory holds only a few bytes per row.
    """

    row_type: type[RowT]
    limit_option = "max_length"
    """Name of the option that limits the tokens of an item."""
    refused_because = "of no use"
    """How messages describe the rows that `refuse` leaves out."""
    not_in_items = frozenset({"path", "validation_path", "batch_size", "seed"})
    """Constructor arguments that no item depends on (paths count by their content). Changing any other argument makes
    new tables."""
    validation_limit: int | None = None
    """Use only this many validation rows, from the start; None uses all."""
    drop_last = False
    """Whether every training batch must be full."""
    shuffle = True
    """Whether the training rows are shuffled in every epoch."""
    validation_batch_size: int | None = None
    """Validation rows per batch on one process; None takes as many as in training."""
    train_sampler: EpochBatchSampler
    """Splits the training rows into batches; set once the Trainer has requested them."""

    def __init__(
        self,
        path: str,
        validation_path: str | None,
        validation_share: float,
        token_limit: int,
        on_long: OnLong,
        batch_size: int,
        seed: int,
        limit: int | None,
        format: str = "auto",
        on_bad_row: OnBadRow = "error",
        fields: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        check_option("batch_size", batch_size, batch_size >= 1, "at least 1")
        check_option("validation_share", validation_share, 0 <= validation_share < 1, "at least 0 and below 1")
        check_option(self.limit_option, token_limit, token_limit >= 1, "at least 1")
        check_option("limit", limit, limit is None or limit >= 1, "at least 1")
        check_option("on_long", on_long, on_long in ("error", "drop"), "error or drop")
        check_option("on_bad_row", on_bad_row, on_bad_row in ("error", "skip"), "error or skip")
        check_format(format, self.row_type, fields)
        self.path = path
        self.validation_path = validation_path
        self.validation_share = validation_share
        self.token_limit = token_limit
        self.on_long = on_long
        self.batch_size = batch_size
        self.seed = seed
        self.limit = limit
        self.format = format
        self.on_bad_row = on_bad_row
        self.fields = fields
        self.prompter: Prompter | None = None
        """If None, `setup` takes it from the LightningModule."""
        self.train_dataset: Any = None
        """Items that `collate` takes; filled in by `setup`, unless they are set before."""
        self.validation_dataset: Any = None
        self.train_rows: Sequence[RowT] = []
        self.validation_rows: Sequence[RowT] = []
        self.report = Report()
        """What happened to the rows; filled in by `setup`."""
        self._tables: Built | None = None

    def encode_batch(self, rows: list[RowT]) -> list[Item]:
        """Turns rows into items; tokenizers are faster on many texts than on one at a time."""
        raise NotImplementedError

    def item_length(self, item: Item) -> int:
        """Number of tokens of an item that count against `token_limit`."""
        raise NotImplementedError

    def collate(self, items: list[Any]) -> Any:
        """Makes a batch from items."""
        raise NotImplementedError

    def refuse(self, row: RowT) -> bool:
        """Whether a row is useless for training and left out."""
        return False

    def facts(self) -> SplitFacts:
        """Chooses among the rows; here it only splits them, by prompt."""
        return SplitFacts()

    def other_inputs(self) -> list[TableInput]:
        """Tables besides the training and validation rows, made by `table_input`; `open_other` opens them."""
        return []

    def as_dataset(self, items: Any, rows: LazyRows[RowT]) -> Any:
        """Makes a dataset from the `datasets.Dataset` of all items and from the rows in the same order."""
        return items

    def prepare_data(self) -> None:
        """Reads and tokenises the rows on the first process of each machine, unless they are cached."""
        if self.train_dataset is None:
            self._find_tables()

    def setup(self, stage: str | None = None) -> None:
        """Opens the tokenised rows once; makes them if `prepare_data` was not called.

        Raises:
            UserError: a file, a row or its length is wrong.
        """
        if self.train_dataset is not None:
            return
        folder = self._find_tables()
        items, self.train_rows = open_table(folder / TRAIN, self.row_type)
        self.train_dataset = self.as_dataset(items, self.train_rows)
        if self.report.validation:
            items, self.validation_rows = open_table(folder / VALIDATION, self.row_type)
            self.validation_dataset = self.as_dataset(items, self.validation_rows)
        self.tell()

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training rows, shuffled unless `shuffle` is False."""
        loader = self._loader(self.train_dataset, training=True)
        self.train_sampler = loader.batch_sampler
        return loader

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Batches of the validation rows in order; an empty list if there are none."""
        return [] if self.validation_dataset is None else self._loader(self.validation_dataset, training=False)

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The validation batches: `test` evaluates a finished stage on them."""
        return self.val_dataloader()

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

    def _loader(self, dataset: Any, training: bool) -> StatefulLoader:
        rows, size = len(dataset), (None if training else self.validation_batch_size) or self.process_batch_size()
        shuffle, drop_last = self.shuffle and training, self.drop_last and training
        try:
            sampler = EpochBatchSampler(rows, size, self.seed, self.rank, self.world_size, shuffle, drop_last)
        except UserError as error:
            path = self.path if training or self.validation_path is None else self.validation_path
            raise UserError(f"{path}: {error}") from None
        return StatefulLoader(dataset, sampler, self.collate)

    def open_other(self, option: str) -> Any:
        """Returns a `datasets.Dataset` with the items of one of `other_inputs`."""
        return open_table(self._find_tables() / f"{option}.arrow", Row)[0]

    def table_input(
        self, option: str, row_type: type[Any], encode: Callable[[list[Any]], list[Item]], limit: int | None = None
    ) -> TableInput:
        """Describes the table of the file that an option names, with the length limit of the training rows.

        Args:
            option: such as "path".
            row_type: of its rows.
            encode: rows -> items.
            limit: use only this many rows, from the start.
        """
        path, own = getattr(self, option), row_type is self.row_type
        refuse = self.refuse if own else lambda _: False
        table = TableInput(option, path, row_type, limit, refuse, encode, self.item_length, self.refused_because)
        return table._replace(format=self.format, fields=self.fields) if own else table

    def get_prompter(self) -> Prompter:
        """The prompter that was set, or else the LightningModule's."""
        if self.prompter is None:
            if self.trainer is None:
                raise RuntimeError("set `prompter` on the DataModule, or attach it to a Trainer")
            self.prompter = self.trainer.lightning_module.prompter
        return self.prompter

    def _find_tables(self) -> Path:
        """Returns the folder of the tokenised rows, which are built unless cached."""
        if self._tables is None:
            self._tables = find_or_build(key := self.cache_key(), self._build)
            content = digests(key["content"]) if key else {}
            self.report = replace(Report(**self._tables.record["report"]), content=content)
        return self._tables.folder

    def _build(self, folder: Path) -> dict[str, Any]:
        validation = None
        if self.validation_path is not None:
            validation = self.table_input("validation_path", self.row_type, self.encode_batch, self.validation_limit)
        report = build_tables(
            folder,
            self.table_input("path", self.row_type, self.encode_batch, self.limit),
            validation,
            self.other_inputs(),
            Reading(self.on_bad_row, self.seed, self.limit_option, self.token_limit, self.on_long),
            self.facts(),
            self.validation_share,
            self.validation_limit,
        )
        return {"report": asdict(report)}

    def cache_key(self) -> dict[str, Any] | None:
        """All that the tables depend on; None if the content of a source is not known before it is read."""
        plain_text = self.row_type.text_field is not None
        paths = {"path": self.path, "validation_path": self.validation_path}
        paths |= {table.option: table.path for table in self.other_inputs()}
        given = {option: path for option, path in paths.items() if path is not None}
        content = {option: content_of(path, plain_text, split_of(option)) for option, path in given.items()}
        if None in content.values():
            return None
        arguments = set(inspect.signature(type(self).__init__).parameters) - {"self"} - self.not_in_items - set(paths)
        if self.draws():
            arguments.add("seed")
        return {
            "module": type(self).__qualname__,
            "code": code_version(),
            "prompter": self.get_prompter().fingerprint(),
            "content": content,
            "options": {name: _plain(getattr(self, name)) for name in sorted(arguments)},
        }

    def draws(self) -> bool:
        """Whether the seed affects which rows are used."""
        return any(path is not None and has_weights(path) for path in (self.path, self.validation_path))

    def tell(self) -> None:
        """Logs what was left out, and copies the bad rows into the run's folder."""
        for option, counts in self.report.sources.items():
            path = getattr(self, option)
            for note in notes_on_splits(path, self.row_type.text_field is not None, split_of(option)):
                rank_zero_info(note)
            if counts["refused"]:
                rank_zero_info(f"{path}: dropped {counts['refused']} of {counts['read']} rows {self.refused_because}.")
            if counts["too_long"]:
                limit = f"{self.token_limit} tokens (--data.{self.limit_option})"
                rank_zero_info(f"{path}: dropped {counts['too_long']} of {counts['read']} rows longer than {limit}.")
            if counts["bad"]:
                place = self._set_aside(bad_rows_file(self._find_tables(), option))
                rank_zero_info(f"{path}: {counts['bad']} bad rows skipped{place}; the first: {counts['first_bad']}")

    def _set_aside(self, bad_rows: Path) -> str:
        folder = getattr(self.trainer, "default_root_dir", None)
        if folder is None:
            return ""
        target = Path(folder) / bad_rows.name
        if self.rank == 0:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bad_rows, target)
        return f", written to {target}"


def check_option(name: str, value: Any, holds: bool, wanted: str) -> None:
    """Raises UserError "--data.<name>: ..." unless `holds`."""
    if not holds:
        raise UserError(f"--data.{name}: {value} is not possible; it must be {wanted}")


def _plain(value: Any) -> Any:
    """A constructor argument as JSON."""
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
