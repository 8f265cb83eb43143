"""Detects what the rows of a dataset are for from the first of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from data_modules.formats import find
from data_modules.reading.readers import TEXT_SUFFIX, kind_of, read_source
from data_modules.reading.sources import parse_sources
from data_modules.reading.texts import PLAIN
from data_modules.rows import SAMPLE, Demonstration, PromptRow, RankedComparison, Row
from lit_instruct.errors import DataError

KINDS: dict[str, type[Row]] = {"comparisons": RankedComparison, "demonstrations": Demonstration, "prompts": PromptRow}
"""In order of preference: most comparisons and demonstrations could also be read as prompts."""


def find_kind(path: str) -> str:
    """Returns one of KINDS, or "pretraining": the first kind as which the first rows of the first source can be read.

    Raises:
        DataError: they have no known kind, or cannot be read.
    """
    first = parse_sources(path)[0].path
    if not Path(first).is_dir() and kind_of(Path(first)) in PLAIN:
        return "prompts" if kind_of(Path(first)) == TEXT_SUFFIX else "pretraining"
    records = list(_first_records(first))
    usable = {kind: sum(_is_usable(one, row_type) for one in records) for kind, row_type in KINDS.items()}
    usable["pretraining"] = sum(isinstance(record, dict) and isinstance(record.get("text"), str) for record in records)
    if not records:
        raise DataError(f"{first}:1: no row of it can be read; is it empty?")
    most = max(usable.values())
    if not most:
        raise DataError(f"{first}: the first rows are of no known layout; give --kind to see what they lack")
    # Bad demonstrations may be good prompts.
    return next(kind for kind, count in usable.items() if count >= most / 2)


def _first_records(path: str) -> Iterator[Any]:
    for found in islice(read_source(path, PromptRow.text_field), SAMPLE):
        try:
            yield found.record()
        except DataError:  # counted as a bad row when all rows are read
            continue


def _is_usable(record: Any, row_type: type[Row]) -> bool:
    layout = find(record, row_type.layouts)
    if layout is None:
        return False
    if layout.group is not None:
        return True  # one of several records that form a row
    try:
        for values in layout.rows(record):
            row_type.from_fields(values)
    except DataError:
        return False
    return True
