"""Files of rows -> tables of tokenised rows, one batch of rows in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from data_modules.formats.fields import FieldNames
from data_modules.hygiene.facts import SplitFacts
from data_modules.hygiene.steps import OPTION_OF
from data_modules.reading.bad_rows import BadRows, OnBadRow
from data_modules.reading.sources import split_of
from data_modules.rows import OnLong, Row, stream_rows
from data_modules.tables.arrow import Item, row_to_json, split_table, write_table
from lit_instruct.errors import DataError, RunawayTemplateError, UserError

ROWS_TOGETHER = 1000
CHARACTERS_TOGETHER = 4_000_000
"""A batch of rows ends at whichever limit comes first."""
TRAIN, VALIDATION = "train.arrow", "validation.arrow"


@dataclass(frozen=True)
class Reading:
    """How rows are read, the same for every table."""

    on_bad_row: OnBadRow
    seed: int
    limit_option: str
    """The option of --data that holds `token_limit`."""
    token_limit: int
    on_long: OnLong


class TableInput(NamedTuple):
    """Where the rows of one table come from, and how they become its items."""

    option: str
    """The option of --data that holds the path, such as path or validation_path."""
    path: str
    row_type: type[Row]
    limit: int | None
    """Use only this many rows from the start; None uses all."""
    refuse: Callable[[Any], bool]
    """Whether a row is useless for training and left out."""
    encode: Callable[[list[Any]], list[Item]]
    """Rows -> items, in order."""
    length: Callable[[Item], int]
    """The tokens of an item that count against the limit."""
    refused_because: str
    """How messages describe the rows that `refuse` leaves out."""
    format: str = "auto"
    fields: FieldNames | None = None
    """Field of a layout -> its name in the file."""


@dataclass
class Counts:
    """What happened to the rows of one table before hygiene."""

    read: int = 0
    bad: int = 0
    refused: int = 0
    too_long: int = 0
    kept: int = 0
    first_bad: str | None = None


@dataclass
class Report:
    """What happened to all rows."""

    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Counts of each table, by its option."""
    train: int = 0
    validation: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    """Rows removed by each hygiene step, by reason."""
    use_cases: dict[str, float] = field(default_factory=dict)
    """Share of each use case among the training rows."""
    content: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the content of each source, by its option; filled in when the rows are used, not when they are built:
    what is built may be shared by sources of the same content."""


def build_tables(
    folder: Path,
    train: TableInput,
    validation: TableInput | None,
    others: Sequence[TableInput],
    reading: Reading,
    facts: SplitFacts,
    share: float,
    validation_limit: int | None,
) -> Report:
    """Writes train.arrow and validation.arrow (each only if it has rows), and <option>.arrow for each other table.

    Args:
        folder: empty.
        train: the training rows.
        validation: rows of a validation file; None splits off a share of the training rows.
        others: further tables, which are not split.
        reading: how to read the rows.
        facts: chooses among the rows.
        share: of the training rows to split off, if there is no validation file.
        validation_limit: keep only this many validation rows, from the start.

    Raises:
        UserError: a file, a row or its length is wrong, or no row is left to train on.
    """
    tables = [train] if validation is None else [validation, train]
    counts = [_write(folder, table, reading, facts) for table in tables]
    chosen = facts.choose(None if validation is None else counts[0].kept, share, reading.seed)
    if validation_limit is not None:
        chosen.validation &= chosen.validation.cumsum() <= validation_limit
    if not chosen.train.any():
        raise _nothing_left(train, counts[-1], chosen.removed)
    start = 0
    for table, count in zip(tables, counts, strict=True):
        rows = slice(start, start + count.kept)
        split_table(
            folder / f"{table.option}.arrow",
            {folder / TRAIN: chosen.train[rows], folder / VALIDATION: chosen.validation[rows]},
        )
        start += count.kept
    counts += [_write(folder, table, reading, None) for table in others]
    return Report(
        {table.option: asdict(count) for table, count in zip([*tables, *others], counts, strict=True)},
        int(chosen.train.sum()),
        int(chosen.validation.sum()),
        chosen.removed,
        chosen.use_cases,
    )


def bad_rows_file(folder: Path, option: str) -> Path:
    """The file with the bad rows of a table; it exists only if there are any."""
    return folder / f"{option}.bad.jsonl"


def _write(folder: Path, table: TableInput, reading: Reading, facts: SplitFacts | None) -> Counts:
    """Writes <option>.arrow with all rows that are useful and short enough."""
    counts = Counts()
    with BadRows(bad_rows_file(folder, table.option)) as bad:
        rows = stream_rows(
            table.path,
            table.row_type,
            layout=table.format,
            fields=table.fields,
            split=split_of(table.option),
            on_bad_row=reading.on_bad_row,
            bad_rows=bad,
            seed=reading.seed,
        )
        batches = _encoded(_batches(islice(rows, table.limit)), table, reading, counts, facts, bad)
        counts.kept = write_table(folder / f"{table.option}.arrow", batches)
    counts.bad, counts.first_bad = bad.count, str(bad.first) if bad.first is not None else None
    return counts


def _batches(rows: Iterable[Row]) -> Iterator[list[tuple[Row, str]]]:
    """Groups rows, each with its JSON, into batches that fit into memory whatever their length."""
    batch: list[tuple[Row, str]] = []
    characters = 0
    for row in rows:
        batch.append((row, row_to_json(row)))
        characters += len(batch[-1][1])
        if len(batch) == ROWS_TOGETHER or characters > CHARACTERS_TOGETHER:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encoded(
    batches: Iterable[list[tuple[Row, str]]],
    table: TableInput,
    reading: Reading,
    counts: Counts,
    facts: SplitFacts | None,
    bad: BadRows,
) -> Iterator[tuple[list[str], list[Item]]]:
    """Tokenises batches and counts the rows that are left out."""
    for batch in batches:
        counts.read += len(batch)
        useful = [(row, text) for row, text in batch if not table.refuse(row)]
        counts.refused += len(batch) - len(useful)
        encoded = _items(table.encode, useful, bad if reading.on_bad_row == "skip" else None)
        counts.read -= len(useful) - len(encoded)
        kept = [found for found in encoded if not _is_too_long(found[0], table.length(found[2]), reading)]
        counts.too_long += len(encoded) - len(kept)
        if kept:
            if facts is not None:
                facts.add([row for row, _, _ in kept])
            yield [text for _, text, _ in kept], [item for _, _, item in kept]


def _is_too_long(row: Row, length: int, reading: Reading) -> bool:
    if length > reading.token_limit and reading.on_long == "error":
        what = "the prompt is" if reading.limit_option == "max_prompt_length" else "prompt and response are"
        raise UserError(
            f"{row.where}: {what} {length} tokens long, over the limit of {reading.token_limit}; raise "
            f"--data.{reading.limit_option}, shorten the row, or leave such rows out with --data.on_long=drop"
        )
    return length > reading.token_limit


def _items(
    encode: Callable[[list[Any]], list[Item]], rows: list[tuple[Row, str]], bad: BadRows | None
) -> list[tuple[Row, str, Item]]:
    """Encodes rows together and returns each, with its JSON, and its item.

    A row that cannot be encoded, such as messages that the chat template refuses, goes to `bad`; without `bad` the
    error names its place.
    """
    try:
        items = encode([row for row, _ in rows])
        return [(row, text, item) for (row, text), item in zip(rows, items, strict=True)]
    except RunawayTemplateError:
        raise
    except UserError as error:
        if len(rows) == 1:
            row, text = rows[0]
            if bad is None:
                raise UserError(f"{row.where}: {error}") from error
            bad.add(row.where, str(error), text)
            return []
    return [found for row in rows for found in _items(encode, [row], bad)]


def _nothing_left(train: TableInput, counts: Counts, removed: dict[str, int]) -> DataError:
    bad = f"bad, the first {counts.first_bad}"
    found = {"read": counts.read, bad: counts.bad, train.refused_because: counts.refused, "too long": counts.too_long}
    found |= removed
    what = ", ".join(f"{count} {reason}" for reason, count in found.items() if count)
    to_loosen = [f"--data.hygiene.{OPTION_OF[why]}" for why, rows in removed.items() if rows and why in OPTION_OF]
    advice = f"; loosen {' or '.join(to_loosen)}" if to_loosen else ""
    return DataError(f"{train.path}: no row is left to train on ({what}){advice}")
