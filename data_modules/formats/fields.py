"""Fields under names of the user's own: --data.fields='{prompt: question, response: answer}'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_modules.formats.layout import Layout, Record, listed
from data_modules.formats.messages import from_json
from data_modules.reading.csv_files import STRUCTURED
from lit_instruct.errors import UserError

FieldNames = Mapping[str, str]
"""Field of a layout -> its name in the file; with dots inside nested fields, such as answers.0.text."""
_ABSENT = object()


def check_fields(names: Any, known: Iterable[str]) -> None:
    """Refuses a mapping to fields that no layout has.

    Args:
        names: the mapping, or None.
        known: fields of all layouts.

    Raises:
        UserError: "--data.fields: ...".
    """
    if names is None:
        return
    if not isinstance(names, Mapping) or not all(isinstance(name, str) and name for name in names.values()):
        raise UserError(f"--data.fields: {names} is no mapping of names; give '{{prompt: question, response: answer}}'")
    wrong = next((field for field in names if field not in set(known)), None)
    if wrong is not None:
        raise UserError(
            f"--data.fields: {wrong} is no field of a layout; the name in the file comes second, the first is one of "
            f"{', '.join(sorted(set(known)))}"
        )


def check_present(path: str, records: Sequence[Record], names: FieldNames | None) -> None:
    """Raises UserError if none of the first records of a source has a field that the mapping names."""
    for field, name in (names or {}).items():
        if records and all(_value_at(record, name) is _ABSENT and field not in record for record in records):
            raise UserError(
                f'--data.fields: {path} has no field "{name}" (for {field}); its first row has {listed([*records[0]])}'
            )


def renamed(record: Record, names: FieldNames | None) -> Record:
    """Returns a record with the fields of the mapping under the names of the layout; without a mapping, the record.

    Lists and objects that a file holds as text, such as a CSV file, are decoded where the layout needs them.
    """
    if not names:
        return record
    values = {field: _value_at(record, name) for field, name in names.items()}
    found = {field: value for field, value in values.items() if value is not _ABSENT}
    used = {names[field] for field in found}
    kept = {name: value for name, value in record.items() if name not in used}
    return kept | {field: _decoded(field, value) for field, value in found.items()}


def _decoded(field: str, value: Any) -> Any:
    return from_json(value) if field in STRUCTURED and isinstance(value, str) else value


def _value_at(record: Any, name: str) -> Any:
    """The value of a field, or of a nested one; _ABSENT if there is none."""
    if isinstance(record, dict) and name in record:
        return record[name]
    first, _, rest = name.partition(".")
    if isinstance(record, list) and first.isdecimal() and int(first) < len(record):
        value = record[int(first)]
    elif isinstance(record, dict) and first in record and rest:
        value = record[first]
    else:
        return _ABSENT
    return _value_at(value, rest) if rest else value


def fields_of(layouts: Iterable[Layout]) -> set[str]:
    """The fields that layouts need or take."""
    return {field for layout in layouts for field in (*layout.needs, *layout.takes)} - {"records"}
