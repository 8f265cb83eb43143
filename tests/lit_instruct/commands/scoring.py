"""Options and results of `lit-instruct rm score` in tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lit_instruct.commands.score import ScoreData, ScoreOptions


def options(demo: Path, rows: Path, **more: Any) -> ScoreOptions:
    """Scores rows into scored.jsonl beside them, in float32."""
    given = {"out": str(rows.parent / "scored.jsonl"), "dtype": "float32"} | more
    return ScoreOptions(str(demo), ScoreData(str(rows)), **given)


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]
