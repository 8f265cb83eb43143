"""What a layout is, and how the layout of a file is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lit_instruct.errors import DataError

Record = dict[str, Any]
MAX_GROUP = 2000
"""Most records in a group, such as the messages of a tree."""
Fields = list[Record]
"""Fields of the rows in one record."""


class MissingFieldError(DataError):
    """A record lacks a field of its layout; in another layout it may be complete."""


@dataclass(frozen=True)
class Layout:
    """A public format for rows of one kind."""

    name: str
    """As in --data.format."""
    needs: tuple[str, ...]
    """Fields that a record must have, not null."""
    convert: Callable[[Record], Fields]
    """Returns the fields of the rows in a record, which stays unchanged; raises DataError without the place."""
    takes: tuple[str, ...] = ()
    """Further fields that `convert` uses; all others stay with the row."""
    fits: Callable[[Record], bool] | None = None
    """Distinguishes a record of this layout from one of another layout with the same fields."""
    group: str | None = None
    """Field that groups neighbouring records: `convert` gets {group: its value, "records": [...]}."""

    def recognises(self, record: Any) -> bool:
        """Whether a record looks like this layout."""
        if not isinstance(record, dict) or any(record.get(name) is None for name in self.needs):
            return False
        return self.fits is None or self.fits(record)

    def rows(self, record: Record) -> Fields:
        """Returns the fields of the rows in a record (or a group), including those that the layout does not use.

        Raises:
            MissingFieldError: a field is missing.
            DataError: a field is wrong.
        """
        missing = next((name for name in self.needs if record.get(name) is None), None)
        if missing is not None and self.group is None:
            if missing in record:
                raise DataError(f'field "{missing}" must not be null; correct the row')
            raise MissingFieldError(
                f'field "{missing}" is missing; a row of format {self.name} needs {listed(self.needs)}'
            )
        used = {*self.needs, *self.takes}
        kept = {name: value for name, value in record.items() if name not in used}
        return [kept | fields for fields in self.convert(record)]


def detect(records: Iterable[Any], layouts: Sequence[Layout]) -> list[Layout]:
    """Returns the layouts of the first records of a file, most frequent first; empty if none is known.

    Args:
        records: decoded records.
        layouts: of the wanted kind of row, each before those that it could be mistaken for.
    """
    counts = Counter(layout for layout in (find(record, layouts) for record in records) if layout is not None)
    return [layout for layout, _ in counts.most_common()]


def find(record: Any, layouts: Sequence[Layout]) -> Layout | None:
    """Returns the first layout that recognises a record."""
    return next((layout for layout in layouts if layout.recognises(record)), None)


def listed(names: Sequence[str]) -> str:
    """Joins names as in "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
