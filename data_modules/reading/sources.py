"""One path or several with weights: "a.jsonl", "a.jsonl,b.parquet", "a.jsonl@3,org/name:train@1"."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from lit_instruct.errors import UserError

T = TypeVar("T")
WEIGHT = re.compile(r"(?P<path>.+)@(?P<weight>[^@:]*)", re.DOTALL)


class WeightedPath(NamedTuple):
    """Where rows come from."""

    path: str
    weight: float | None
    """Its share relative to the other sources; None takes all its rows."""


def parse_sources(path: str | Path) -> list[WeightedPath]:
    """Splits what stands in --data.path.

    Args:
        path: files, folders and hub ids, separated by commas; each may end in @ and a weight (the @ of a hub id's
            revision stands before the split). A name that exists as it stands is one path, whatever is in it.

    Raises:
        UserError: a weight is no positive number, or only some of the sources have one.
    """
    text = str(path)
    if Path(text).exists():
        return [WeightedPath(text, None)]
    sources = [_parse(part.strip(), text) for part in text.split(",")]
    weighted = [source.weight is not None for source in sources]
    if any(weighted) and not all(weighted):
        bare = sources[weighted.index(False)].path
        raise UserError(f"--data.path={text}: {bare} has no weight; give every source one (@1), or none")
    return sources


def mix(streams: Sequence[Iterator[T]], weights: Sequence[float | None], seed: int) -> Iterator[T]:
    """Rows of all streams: one stream after the other without weights, else drawn in their proportions.

    With weights the next row comes from stream i with probability w_i / sum(w), and the mix ends when the stream whose
    turn it is has no more: no row is used twice, and the proportions hold to the end.

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
    found = None if Path(part).exists() else WEIGHT.fullmatch(part)
    if found is None:
        return WeightedPath(part, None)
    try:
        weight = float(found["weight"])
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UserError(f"--data.path={whole}: {found['weight']!r} is no weight; write a number above 0 after the @")
    return WeightedPath(found["path"], weight)
