"""Sources -> tables of tokenised rows, a batch of rows in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from data_modules.hygiene.steps import OPTION_OF, Cleaned
from data_modules.reading.bad_rows import BadRows, OnBadRow
from data_modules.rows import Row, stream_rows
from data_modules.tables.arrow import Item, row_to_json, split_table, write_table
from lit_instruct.errors import DataError

ROWS_TOGETHER = 1000
CHARACTERS_TOGETHER = 4_000_000
"""A batch of rows ends at whichever comes first."""
TRAIN, VALIDATION = "train.arrow", "validation.arrow"


class Facts(Protocol):
    """Decides which rows train and which validate; `data_modules.hygiene.facts` has those there are."""

    def add(self, rows: Sequence[Any]) -> None:
        """Takes note of further rows."""

    def choose(self, validation_rows: int | None, share: float, seed: int) -> Cleaned:
        """Says what becomes of all rows so far."""


@dataclass(frozen=True)
class Reading:
    """How the rows of every source are read."""

    format: str
    on_bad_row: OnBadRow
    seed: int


class Source(NamedTuple):
    """Rows that become a table."""

    option: str
    """The option of --data that names the path."""
    path: str
    row_type: type[Row]
    limit: int | None
    """Only the first so many rows."""
    refuse: Callable[[Any], bool]
    """Whether a row is of no use and left out."""
    encode: Callable[[list[Any]], list[Item]]
    """Rows -> items, in order."""
    too_long: Callable[[Any, Item], bool]
    """Whether an item is left out for its length; raises where that is an error."""
    refused_because: str
    """What is said of rows that `refuse` leaves out."""


@dataclass
class Counts:
    """What became of a source's rows before hygiene."""

    read: int = 0
    bad: int = 0
    refused: int = 0
    too_long: int = 0
    kept: int = 0
    first_bad: str | None = None


@dataclass
class Report:
    """What became of all rows."""

    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Option -> Counts."""
    train: int = 0
    validation: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    """Reason -> rows, of the steps of hygiene."""
    use_cases: dict[str, float] = field(default_factory=dict)
    """Share of each use case of the training rows."""


def build_tables(
    folder: Path,
    train: Source,
    validation: Source | None,
    others: Sequence[Source],
    reading: Reading,
    facts: Facts,
    share: float,
    validation_limit: int | None,
) -> Report:
    """Writes train.arrow, validation.arrow (neither where it has no rows) and <option>.arrow for each other source.

    Args:
        folder: empty.
        train: the training rows.
        validation: rows of a file of their own; None splits off some of the training rows.
        others: further sources, which are not split.
        reading: how to read them.
        facts: chooses among the rows.
        share: of the training rows that validate, where there is no file of them.
        validation_limit: keep only the first so many validation rows.

    Raises:
        UserError: a file, a row or its length is wrong, or no row is left to train on.
    """
    sources = [train] if validation is None else [validation, train]
    counts = [_write(folder, source, reading, facts) for source in sources]
    chosen = facts.choose(None if validation is None else counts[0].kept, share, reading.seed)
    if validation_limit is not None:
        chosen.validation &= chosen.validation.cumsum() <= validation_limit
    if not chosen.train.any():
        what = _what_became(train, counts[-1], chosen.removed)
        blamed = [
            f"--data.hygiene.{OPTION_OF[why]}" for why, rows in chosen.removed.items() if rows and why in OPTION_OF
        ]
        advice = f"; loosen {' or '.join(blamed)}" if blamed else ""
        raise DataError(f"{train.path}: no row is left to train on ({what}){advice}")
    start = 0
    for source, count in zip(sources, counts, strict=True):
        rows = slice(start, start + count.kept)
        split_table(
            folder / f"{source.option}.arrow",
            {folder / TRAIN: chosen.train[rows], folder / VALIDATION: chosen.validation[rows]},
        )
        start += count.kept
    counts += [_write(folder, source, reading, None) for source in others]
    return Report(
        {source.option: asdict(count) for source, count in zip([*sources, *others], counts, strict=True)},
        int(chosen.train.sum()),
        int(chosen.validation.sum()),
        chosen.removed,
        chosen.use_cases,
    )


def bad_rows_file(folder: Path, option: str) -> Path:
    """Where the bad rows of a source lie; there is no file where it has none."""
    return folder / f"{option}.bad.jsonl"


class _BadRows(BadRows):
    """Bad rows whose file is in the cache, which is no place to send anybody to."""

    def describe(self) -> str:
        return f"{self.count} bad rows skipped"


def _write(folder: Path, source: Source, reading: Reading, facts: Facts | None) -> Counts:
    """Writes <option>.arrow with all rows that are of use and short enough."""
    counts = Counts()
    with _BadRows(bad_rows_file(folder, source.option)) as bad:
        rows = stream_rows(
            source.path,
            source.row_type,
            layout=reading.format,
            on_bad_row=reading.on_bad_row,
            bad_rows=bad,
            seed=reading.seed,
        )
        batches = _encoded(_batches(islice(rows, source.limit)), source, counts, facts)
        counts.kept = write_table(folder / f"{source.option}.arrow", batches)
    counts.bad, counts.first_bad = bad.count, str(bad.first) if bad.first is not None else None
    return counts


def _batches(rows: Iterable[Row]) -> Iterator[list[tuple[Row, str]]]:
    """Rows with their JSON, so many at a time as fit into memory whatever their length."""
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
    batches: Iterable[list[tuple[Row, str]]], source: Source, counts: Counts, facts: Facts | None
) -> Iterator[tuple[list[str], list[Item]]]:
    """Tokenises batches, and counts the rows that are left out."""
    for batch in batches:
        counts.read += len(batch)
        useful = [(row, text) for row, text in batch if not source.refuse(row)]
        counts.refused += len(batch) - len(useful)
        items = source.encode([row for row, _ in useful])
        kept = [(*pair, item) for pair, item in zip(useful, items, strict=True) if not source.too_long(pair[0], item)]
        counts.too_long += len(useful) - len(kept)
        if kept:
            if facts is not None:
                facts.add([row for row, _, _ in kept])
            yield [text for _, text, _ in kept], [item for _, _, item in kept]


def _what_became(source: Source, counts: Counts, removed: dict[str, int]) -> str:
    found = {"read": counts.read, source.refused_because: counts.refused, "too long": counts.too_long} | removed
    return ", ".join(f"{count} {what}" for what, count in found.items() if count)
