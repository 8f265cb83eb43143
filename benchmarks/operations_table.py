"""The table of `benchmarks.operations`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {"plain": "as it is", "packed": "packed"}


def rows(found: Mapping[str, Any]) -> list[Sequence[object]]:
    """Returns the rows: seconds by kind of operation, of each case with plain and with packed frozen weights."""
    kinds = [*next(iter(found["cases"].values()))["plain"]]
    table: list[Sequence[object]] = [("seconds", "frozen weights", *kinds, "in all")]
    for case, ways in found["cases"].items():
        for way, seconds in ways.items():
            cells = (f"{seconds[kind]:.2f}" for kind in kinds)
            table.append((case, NAMES[way], *cells, f"{sum(seconds.values()):.2f}"))
    return table
