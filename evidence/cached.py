"""Results that are kept until anything changes that they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_instruct.files import write_text


def digest(*parts: Any) -> str:
    """Returns twelve hexadecimal digits that stand for values and contents of files.

    Args:
        parts: paths, of which the content counts, of a stage folder that of its stage.json; other values by their JSON.
    """
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            part = hashlib.sha256((part / "stage.json" if part.is_dir() else part).read_bytes()).hexdigest()
        total.update(json.dumps(part).encode() + b"\n")
    return total.hexdigest()[:12]


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
