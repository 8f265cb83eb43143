"""Types of values that were read from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, get_args, get_origin


def wrong_values(record: Mapping[str, Any], hints: Mapping[str, Any], within: str = "") -> list[str]:
    """Returns what is wrong with the values of an object, such as "seed is '0'".

    Args:
        record: the object; a name without a hint may have any value.
        hints: type by name, such as `float | None`.
        within: the field that the object is the value of, for the message.
    """
    return [
        f"{within}{name} is {value!r}"[:80]
        for name, value in record.items()
        if name in hints and not fits(value, hints[name])
    ]


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a value that was read from JSON has a type such as `float | None` or `dict[str, str]`."""
    if get_origin(hint) is UnionType:
        return any(fits(value, one) for one in get_args(hint))
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(fits(item, get_args(hint)[1]) for item in value.values())
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is Any:
        return True
    return isinstance(value, (int, float) if hint is float else hint) and (hint is bool or not isinstance(value, bool))
