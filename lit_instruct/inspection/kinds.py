"""Detects what the rows of a dataset are for from the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from data_modules.formats import Record, find
from data_modules.formats.advice import known_layouts
from data_modules.formats.fields import FieldNames, renamed
from data_modules.formats.layout import listed
from data_modules.reading.folders import TEXT_SUFFIX, find_folder, kind_of
from data_modules.reading.readers import read_source
from data_modules.reading.records import decodable
from data_modules.reading.sources import parse_sources
from data_modules.reading.texts import PLAIN
from data_modules.rows import SAMPLE, Demonstration, PromptRow, RankedComparison, Row
from lit_instruct.errors import DataError

KINDS: dict[str, type[Row]] = {"comparisons": RankedComparison, "demonstrations": Demonstration, "prompts": PromptRow}
"""In order of preference: most comparisons and demonstrations could also be read as prompts."""


def find_kind(path: str, fields: FieldNames | None = None) -> str:
    """Returns one of KINDS, or "pretraining": the first kind as which the first rows of the first source can be read.

    Args:
        path: of the data.
        fields: field of a layout -> its name in the file.

    Raises:
        DataError: they have no known kind, or cannot be read.
    """
    first = parse_sources(path)[0].path
    if find_folder(first) is None and kind_of(Path(first)) in PLAIN:
        return "prompts" if kind_of(Path(first)) == TEXT_SUFFIX else "pretraining"
    records = [renamed(one, fields) for one in decodable(islice(read_source(first, PromptRow.text_field), SAMPLE))]
    if not records:
        raise DataError(f"{first}:1: no row of it can be read; is it empty?")
    usable = {kind: sum(_is_usable(one, row_type, records) for one in records) for kind, row_type in KINDS.items()}
    usable["pretraining"] = sum(isinstance(record.get("text"), str) for record in records)
    most = max(usable.values())
    if not most:
        known = "; ".join(f"{kind}: {known_layouts(row_type.layouts)}" for kind, row_type in KINDS.items())
        raise DataError(
            f"{first}: the first rows are of no known layout; the first has {listed([*records[0]]) or 'no field'}, "
            f"known are {known}; name its fields with --fields='{{prompt: ..., response: ...}}', or give --kind to see "
            "what the rows lack"
        )
    # Bad demonstrations may be good prompts.
    return next(kind for kind, count in usable.items() if count >= most / 2)


def _is_usable(record: Record, row_type: type[Row], records: Sequence[Record]) -> bool:
    layout = find(record, row_type.layouts)
    if layout is None:
        return False
    if layout.group is not None:  # one of several records that form a row
        return sum(other.get(layout.group) == record[layout.group] for other in records) > 1
    try:
        for values in layout.rows(record):
            row_type.from_fields(values)
    except DataError:
        return False
    return True
