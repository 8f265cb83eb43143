"""Results that are kept until anything changes that they were made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_instruct.files import digest, write_text


def kept_json(path: Path, parts: list[Any], make: Callable[[], Any]) -> Any:
    """Returns what `make` makes, from the file of an earlier call with the same parts if there is one.

    Args:
        path: of the file, such as runs/evidence/scores.json; the digest of the parts becomes part of its name.
        parts: all that the result depends on, as `digest` takes it.
        make: returns a value for JSON.
    """
    place = path.with_name(f"{path.stem}-{digest(*parts)}{path.suffix}")
    if place.is_file():
        return json.loads(place.read_text(encoding="utf-8"))
    found = make()
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place, json.dumps(found, ensure_ascii=False), "--runs")
    return found
