"""A loader that a user made -> the rows that it goes through, and how it makes batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    default_collate,
)
from torch.utils.data.distributed import DistributedSampler

from data_modules.reading.given import GivenRows, record_of
from lit_instruct.batches import PromptBatch
from lit_instruct.errors import UserError

IDS = "PromptBatch.prompt_ids"
"""Column with the token ids of a prompt that came in a `PromptBatch`."""
MOST = 10_000_000
"""Most rows of a stream, which is read to its end before the training."""


@dataclass
class LoaderRows:
    """The rows of a loader."""

    rows: GivenRows
    batch_size: int
    """Rows in a batch."""
    shuffle: bool
    drop_last: bool
    """Whether every batch must be full."""
    tokenised: bool
    """Whether each row has the column `IDS`."""


def rows_of_loader(loader: Any, name: str) -> LoaderRows:
    """Returns the rows that a loader goes through in one epoch.

    Of a DataLoader these are the items of its dataset, each as its `collate_fn` returns it; of any other iterable they
    are the rows in its batches.

    Args:
        loader: a DataLoader, or an iterable of batches.
        name: train_dataloader, val_dataloader or test_dataloader, for messages.

    Raises:
        UserError: several loaders, or a sampler that cannot be followed.
    """
    if isinstance(loader, list | tuple) and len(loader) == 1 and isinstance(loader[0], DataLoader):
        loader = loader[0]
    if isinstance(loader, Mapping) or (isinstance(loader, list | tuple) and any(map(_is_loader, loader))):
        raise UserError(f"{name}: several loaders; give one, with the rows of all of them in its dataset")
    if isinstance(loader, DataLoader):
        return _of_data_loader(loader, name)
    if isinstance(loader, str) or not isinstance(loader, Iterable):
        raise UserError(f"{name}: a {type(loader).__name__} is no loader; give a DataLoader or a DataModule")
    batches = [[*_rows_in(batch, name)] for batch in loader]
    rows = [row for batch in batches for row in batch]
    _check_some(rows, name)
    return LoaderRows(GivenRows(name, rows), max(map(len, batches)), False, False, isinstance(rows[0], _Tokenised))


def _is_loader(value: Any) -> bool:
    return isinstance(value, DataLoader) or type(value).__name__ == "CombinedLoader"


def _of_data_loader(loader: DataLoader[Any], name: str) -> LoaderRows:
    if isinstance(loader.dataset, IterableDataset):
        items: Any = [*islice(loader.dataset, MOST + 1)]
        shuffle = False
        if len(items) > MOST:
            raise UserError(f"{name}: its stream did not end after {MOST:,} rows; give a data set that ends")
    else:
        numbers, shuffle = _order(loader, name)
        items = _Items(loader.dataset, numbers)
    rows = _Rows(items, _row_reader(loader, name))
    _check_some(items, name)
    first = [*rows.of(next(iter(items)))]
    _check_some(first, name)
    size = loader.batch_size
    if size is None:  # every item of the dataset is a batch
        size = len(first)
    return LoaderRows(GivenRows(name, rows), size, shuffle, loader.drop_last, isinstance(first[0], _Tokenised))


def _check_some(items: Sized, name: str) -> None:
    if not len(items):
        raise UserError(f"{name}: there are no rows in it")


def _order(loader: DataLoader[Any], name: str) -> tuple[range | list[int], bool]:
    """Returns which items a loader takes, and whether it shuffles them."""
    batches, sampler, count = loader.batch_sampler, loader.sampler, len(loader.dataset)  # type: ignore[arg-type]
    if batches is not None and type(batches) is not BatchSampler:
        raise UserError(
            f"{name}: its batch_sampler {type(batches).__name__} cannot be followed, since batches are made anew so "
            "that a run resumes exactly; give batch_size and shuffle"
        )
    if isinstance(sampler, DistributedSampler):  # rows are dealt to the processes later
        return range(count), sampler.shuffle
    if type(sampler) is SequentialSampler:
        return range(count), False
    if type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == count:
        return range(count), True
    if type(sampler) is SubsetRandomSampler:
        return [int(index) for index in sampler.indices], True
    raise UserError(
        f"{name}: its sampler {type(sampler).__name__} cannot be followed, since rows are taken once an epoch in an "
        "order that a resumed run repeats; give shuffle=True, and put the rows that should count more into the dataset "
        "several times"
    )


def _row_reader(loader: DataLoader[Any], name: str) -> Callable[[Any], Iterator[Any]]:
    """Returns how an item of a loader's dataset becomes rows."""
    collate = loader.collate_fn
    if loader.batch_size is None:
        return lambda item: _rows_in(item, name)
    if collate is default_collate:  # it would transpose dicts, and fail on messages
        return lambda item: iter([item])
    return lambda item: _rows_in(collate([item]), name)


def _rows_in(batch: Any, name: str) -> Iterator[Any]:
    """Yields the rows of a batch."""
    if isinstance(batch, PromptBatch):
        if len(batch.rows) != len(batch.prompt_ids):
            raise UserError(f"{name}: a PromptBatch has {len(batch.rows)} rows for {len(batch.prompt_ids)} prompts")
        for ids, mask, row in zip(batch.prompt_ids, batch.prompt_mask, batch.rows, strict=True):
            yield _Tokenised(record_of(row, "prompt") | {IDS: ids[mask.bool()].tolist()})
    elif isinstance(batch, str):
        yield batch
    elif isinstance(batch, Mapping):
        yield from _rows_of_columns(batch, name)
    elif isinstance(batch, list | tuple) and not hasattr(batch, "_fields"):
        yield from batch
    else:
        raise UserError(
            f"{name}: a batch is a {type(batch).__name__}; give a list of rows, as collate_fn=list does: a row is a "
            "text or a dict (docs/python.md)"
        )


def _rows_of_columns(batch: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Yields the rows of a dict of columns, as `default_collate` makes it; a dict of plain values is one row."""
    columns = {key: value for key, value in batch.items() if _is_column(value)}
    if "input_ids" in batch:
        raise UserError(f"{name}: its batches have token ids; give rows of text, which the module tokenises")
    if len(columns) < len(batch):
        yield dict(batch)
        return
    if len({len(column) for column in columns.values()}) > 1:
        raise UserError(f"{name}: the columns of a batch have different lengths; give a list of rows (collate_fn=list)")
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _is_column(value: Any) -> bool:
    """Whether a value has one entry for each row; a list of messages is the value of one row."""
    if isinstance(value, list | tuple):
        return not (value and isinstance(value[0], Mapping) and value[0].keys() & {"role", "from"})
    return isinstance(value, Tensor) and value.dim() > 0


class _Tokenised(dict[str, Any]):
    """A row of a `PromptBatch`, with the ids of its prompt."""


@dataclass
class _Items:
    """Items of a dataset by number; can be iterated again."""

    dataset: Any
    numbers: range | list[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Any]:
        return (self.dataset[number] for number in self.numbers)


@dataclass
class _Rows:
    """Rows of a dataset; can be iterated again."""

    items: Iterable[Any]
    of: Callable[[Any], Iterator[Any]]

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            yield from self.of(item)
