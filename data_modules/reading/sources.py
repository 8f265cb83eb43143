"""One path or several with weights: "a.jsonl", "a.jsonl,b.parquet", "a.jsonl@3,org/name:train@1"."""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from data_modules.reading.given import GivenRows
from lit_instruct.errors import UserError

T = TypeVar("T")
WEIGHT = re.compile(r"(?P<path>.+)@(?P<weight>[^@:]*)", re.DOTALL)


class WeightedPath(NamedTuple):
    """One source of rows: a path, with a weight if sources are mixed."""

    path: str
    weight: float | None
    """Its share relative to the other sources; None takes all of its rows."""


def parse_sources(path: str | Path) -> list[WeightedPath]:
    """Splits the value of --data.path into its sources.

    Args:
        path: files, folders and hub ids, separated by commas; each may end in @ and a weight (the @ of a hub id's
            revision comes before the split). If the whole text is an existing path, it is one source.

    Raises:
        UserError: a weight is not a positive number, or only some of the sources have one.
    """
    if isinstance(path, GivenRows):
        return [WeightedPath(path, None)]
    text = str(path)
    if "\0" in text:
        raise UserError(f"--data.path={text!r}: a path cannot contain a NUL character; take it out")
    if os.path.exists(text):  # unlike Path.exists, it takes long lists
        return [WeightedPath(text, None)]
    sources = [_parse(part.strip(), text) for part in text.split(",")]
    weighted = [source.weight is not None for source in sources]
    if any(weighted) and not all(weighted):
        bare = sources[weighted.index(False)].path
        raise UserError(f"--data.path={text}: {bare} has no weight; give every source one (@1), or none")
    return sources


def split_of(option: str) -> str:
    """The split that a folder of several stands for, by the option of --data that names the folder."""
    return "validation" if option == "validation_path" else "train"


def has_weights(path: str | Path) -> bool:
    """Whether the sources of a path are mixed, in random order."""
    return parse_sources(path)[0].weight is not None


def mix(streams: Sequence[Iterator[T]], weights: Sequence[float | None], seed: int) -> Iterator[T]:
    """Yields the rows of all streams: one stream after the other, or with weights in random order.

    With weights the next row comes from stream i with probability w_i / sum(w). The mix ends when the drawn stream is
    exhausted, so no row is used twice and the proportions hold to the end.

    Args:
        streams: one for each source.
        weights: all None, or all positive.
        seed: determines the draws.
    """
    if any(weight is None for weight in weights):
        for stream in streams:
            yield from stream
        return
    draw = random.Random(seed)
    cumulative = [sum(w or 0 for w in weights[: number + 1]) for number in range(len(weights))]
    nothing = object()
    while True:
        stream = draw.choices(streams, cum_weights=cumulative)[0]
        row = next(stream, nothing)
        if row is nothing:
            return
        yield row  # type: ignore[misc]


def _parse(part: str, whole: str) -> WeightedPath:
    if not part:
        raise UserError(f"--data.path={whole!s}: a path between the commas is empty; take the comma out")
    found = None if os.path.exists(part) else WEIGHT.fullmatch(part)
    if found is None:
        return WeightedPath(part, None)
    try:
        weight = float(found["weight"])
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UserError(f"--data.path={whole}: {found['weight']!r} is no weight; write a number above 0 after the @")
    return WeightedPath(found["path"], weight)
