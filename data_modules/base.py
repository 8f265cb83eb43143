"""What the three DataModules share: options, and rows that are read, split and tokenised into the cache."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from lightning.pytorch.utilities import rank_zero_info

from data_modules.batch_loaders import BatchLoaders, check_option
from data_modules.hygiene.facts import SplitFacts
from data_modules.reading.bad_rows import OnBadRow
from data_modules.reading.sources import parse_sources
from data_modules.rows import Row, check_format
from data_modules.tables.arrow import Item, LazyRows, open_table
from data_modules.tables.build import TRAIN, VALIDATION, Facts, Reading, Report, Source, bad_rows_file, build_tables
from data_modules.tables.cache import build_once, find_or_build
from data_modules.tables.fingerprints import code_version, content_of
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter

OnLong = Literal["error", "drop"]
RowT = TypeVar("RowT", bound=Row)


class RowDataModule(BatchLoaders, Generic[RowT]):
    """Reads rows, splits them, tokenises them and serves them in batches.

    A subclass says what a row is (`row_type`), how rows become items (`encode`) and how those become a batch
    (`collate`). Rows and items lie in files of the cache, which the next start finds again unless the content of a
    file, the tokenizer, an option or this code changed; memory holds some bytes a row.
    """

    row_type: type[RowT]
    limit_option: str
    """Name of the option that bounds an item's tokens, for error messages."""
    refused_because = "of no use"
    """What is said of rows that `refuse` leaves out."""
    not_in_items = frozenset({"path", "validation_path", "batch_size", "seed"})
    """Constructor arguments on which no item depends (the content of paths is looked at); any other one makes new
    tables when it changes."""
    validation_limit: int | None = None
    """Only the first so many validation rows."""

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
        format: str = "auto",
        on_bad_row: OnBadRow = "error",
    ) -> None:
        super().__init__(path, validation_path, batch_size, seed)
        check_option("validation_share", validation_share, 0 <= validation_share < 1, "at least 0 and below 1")
        check_option(limit_option, token_limit, token_limit >= 1, "at least 1")
        check_option("limit", limit, limit is None or limit >= 1, "at least 1")
        check_option("on_long", on_long, on_long in ("error", "drop"), "error or drop")
        check_option("on_bad_row", on_bad_row, on_bad_row in ("error", "skip"), "error or skip")
        check_format(format, self.row_type)
        self.validation_share = validation_share
        self.limit_option = limit_option
        self.token_limit = token_limit
        self.on_long = on_long
        self.limit = limit
        self.format = format
        self.on_bad_row = on_bad_row
        self.prompter: Prompter | None = None
        """Set by hand, or else taken from the LightningModule in `setup`."""
        self.train_rows: Sequence[RowT] = []
        self.validation_rows: Sequence[RowT] = []
        self.report = Report()
        """What became of the rows; filled in by `setup`."""
        self._tables: tuple[Path, Any] | None = None

    def encode(self, row: RowT) -> Item:
        """Turns one row into the token ids of a dataset item."""
        raise NotImplementedError

    def encode_batch(self, rows: list[RowT]) -> list[Item]:
        """Turns rows into items; tokenizers are faster on many texts than on one at a time."""
        return [self.encode(row) for row in rows]

    def item_length(self, item: Item) -> int:
        """Tokens of an item that `token_limit` bounds."""
        raise NotImplementedError

    def refuse(self, row: RowT) -> bool:
        """Whether a row is of no use and left out."""
        return False

    def facts(self) -> Facts:
        """What chooses among the rows: here the split, by prompt."""
        return SplitFacts()

    def other_sources(self) -> list[Source]:
        """Sources beside training and validation rows, made by `source`; `open_other` opens them after `setup`."""
        return []

    def as_dataset(self, items: Any, rows: LazyRows[RowT]) -> Any:
        """Makes a dataset of items and rows.

        Args:
            items: `datasets.Dataset` with what `encode` gave.
            rows: the rows, in the same order.
        """
        return items

    def prepare_data(self) -> None:
        """Reads and tokenises on the first process of a machine, unless the cache has it; the others wait."""
        self._find_tables()

    def setup(self, stage: str | None = None) -> None:
        """Opens the tokenised rows, once; makes them where `prepare_data` was not called.

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

    def open_other(self, option: str) -> Any:
        """`datasets.Dataset` with the items of one of `other_sources`."""
        return open_table(self._find_tables() / f"{option}.arrow", Row)[0]

    def source(
        self, option: str, row_type: type[Any], encode: Callable[[list[Any]], list[Item]], limit: int | None = None
    ) -> Source:
        """Rows of the file that an option names, under the same limit of length as the training rows.

        Args:
            option: such as path.
            row_type: what its rows are.
            encode: rows -> items.
            limit: only the first so many rows.
        """
        refuse = self.refuse if row_type is self.row_type else _never
        path = getattr(self, option)
        with_place = partial(_with_place, encode)
        return Source(option, path, row_type, limit, refuse, with_place, self._is_too_long, self.refused_because)

    def get_prompter(self) -> Prompter:
        """The prompter set by hand, or else the LightningModule's."""
        if self.prompter is None:
            if self.trainer is None:
                raise RuntimeError("set `prompter` on the DataModule, or attach it to a Trainer")
            self.prompter = self.trainer.lightning_module.prompter
        assert self.prompter is not None
        return self.prompter

    def _find_tables(self) -> Path:
        """The folder of the tokenised rows: from the cache, or made now."""
        if self._tables is None:
            key = self._key()
            if key is None:
                scratch, record = build_once(self._build)
                self._tables = Path(scratch.name), scratch  # which goes when this object goes
            else:
                folder, record = find_or_build(key, self._build)
                self._tables = folder, None
            self.report = Report(**record["report"])
        return self._tables[0]

    def _build(self, folder: Path) -> dict[str, Any]:
        validation = None
        if self.validation_path is not None:
            validation = self.source("validation_path", self.row_type, self.encode_batch, self.validation_limit)
        report = build_tables(
            folder,
            self.source("path", self.row_type, self.encode_batch, self.limit),
            validation,
            self.other_sources(),
            Reading(self.format, self.on_bad_row, self.seed),
            self.facts(),
            self.validation_share,
            self.validation_limit,
        )
        return {"report": asdict(report)}

    def _key(self) -> dict[str, Any] | None:
        """All that the tables depend on; None where the content of a source cannot be known before it is read."""
        plain_text = self.row_type.text_field is not None
        paths = {"path": self.path, "validation_path": self.validation_path}
        paths |= {source.option: source.path for source in self.other_sources()}
        content = {option: content_of(path, plain_text) for option, path in paths.items() if path is not None}
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
        """Whether the seed decides which rows there are."""
        paths = [path for path in (self.path, self.validation_path) if path is not None]
        return any(source.weight is not None for path in paths for source in parse_sources(path))

    def _is_too_long(self, row: Row, item: Item) -> bool:
        length = self.item_length(item)
        if length > self.token_limit and self.on_long == "error":
            what = "the prompt is" if self.limit_option == "max_prompt_length" else "prompt and response are"
            raise UserError(
                f"{row.where}: {what} {length} tokens long, over the limit of {self.token_limit}; raise "
                f"--data.{self.limit_option}, shorten the row, or leave such rows out with --data.on_long=drop"
            )
        return length > self.token_limit

    def tell(self) -> None:
        """Logs what was left out, and puts bad rows into the run's folder."""
        for option, counts in self.report.sources.items():
            path = getattr(self, option)
            if counts["refused"]:
                rank_zero_info(f"{path}: dropped {counts['refused']} of {counts['read']} rows {self.refused_because}.")
            if counts["too_long"]:
                rank_zero_info(
                    f"{path}: dropped {counts['too_long']} of {counts['read']} rows longer than {self.token_limit} "
                    f"tokens (--data.{self.limit_option})."
                )
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


def _never(_: Row) -> bool:
    return False


def _plain(value: Any) -> Any:
    """A constructor argument as JSON."""
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def _with_place(encode: Callable[[list[Any]], list[Item]], rows: list[Any]) -> list[Item]:
    """Encodes rows together; where one of them cannot be, its place is named."""
    try:
        return encode(rows)
    except UserError:  # such as a chat template that refuses these messages
        for row in rows:
            try:
                encode([row])
            except UserError as error:
                raise UserError(f"{row.where}: {error}") from error
        raise
