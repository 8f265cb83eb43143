"""Records as decoded objects, one at a time or in groups, with their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import Any, NamedTuple

from data_modules.formats.fields import FieldNames, renamed
from data_modules.formats.layout import MAX_GROUP, Record
from data_modules.reading.bad_rows import BadRows, refuse
from data_modules.reading.files import Found
from lit_instruct.errors import DataError


class Item(NamedTuple):
    """A record, or a group of records that are one example."""

    where: str
    record: Record
    raw: Any


def items_of(found: Iterable[Found], names: FieldNames | None, bad: BadRows | None) -> Iterator[Item]:
    """Decodes records; those that cannot be decoded are bad rows.

    Args:
        found: the records.
        names: field of a layout -> its name in the file.
        bad: collects bad rows; None makes them an error.

    Raises:
        DataError: a row is bad and `bad` is None.
    """
    for one in found:
        try:
            record = one.fields()
        except DataError as error:
            refuse(one.where, error, one.raw, bad)
        else:
            yield Item(one.where, renamed(record, names), record if one.raw is None else one.raw)


def grouped(items: Iterable[Item], name: str) -> Iterator[Item]:
    """Groups neighbouring records with the same value of field `name`, at most MAX_GROUP + 1 of them."""
    for value, group in groupby(items, key=lambda item: item.record.get(name)):
        members = list(islice(group, MAX_GROUP + 1))
        record = {name: value, "records": [member.record for member in members]}
        yield Item(members[0].where, record, [member.raw for member in members])


def decodable(found: Iterable[Found]) -> Iterator[Record]:
    """Yields the records that can be decoded."""
    for one in found:
        try:
            yield one.fields()
        except DataError:  # reported or counted when its turn comes
            continue
