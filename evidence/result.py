"""What a finding came to, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.files import json_text, write_text
from lit_instruct.machine import provenance

TEXTS = ("finding", "question", "paper", "done", "unit", "verdict", "date", "fingerprint")
TABLES = ("rows", "plots", "claims")
FIGURES = ("figure", "ci_low", "ci_high")
ANSWERS = {True: "holds", False: "does not hold", None: "neither shown nor excluded"}
"""What `holds` says."""


@dataclass(frozen=True)
class Result:
    """One finding."""

    finding: str
    question: str
    paper: str
    """What the paper found, with its section."""
    done: str
    """What was done here."""
    holds: bool | None
    """None if it can be neither shown nor excluded at this size."""
    figure: float | None
    ci_low: float | None
    ci_high: float | None
    """95 % interval of the figure."""
    unit: str
    seeds: Sequence[int]
    verdict: str
    """One sentence."""
    rows: Sequence[dict[str, Any]] = field(default_factory=list)
    """A table: label -> cell."""
    plots: Sequence[dict[str, Any]] = field(default_factory=list)
    """Charts as `evidence.charts.chart` takes them."""
    claims: Sequence[dict[str, Any]] = field(default_factory=list)
    """Further claims: claim, holds, figure, ci_low, ci_high."""
    seconds: float = 0.0
    """That measuring took, over all calls that were needed."""
    fingerprint: str = ""
    """Of the code, recipes, data and options that it was made with (`evidence.origin.fingerprint`)."""


def write_result(result: Result, folder: Path) -> Path:
    """Writes <finding>.json, with machine, versions and date, and returns the file.

    Raises:
        UserError: the result is not what `checked` allows; nothing is written then.
    """
    path = folder / f"{result.finding}.json"
    content = checked(asdict(result) | provenance(), path)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json_text(content), "--runs")
    return path


def read_result(path: Path) -> dict[str, Any]:
    """Returns the content of a result's file.

    Raises:
        UserError: it cannot be read, or is not a result.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a result ({error}); measure the finding again") from error
    return checked(content, path)


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns finding -> result of all files in a folder.

    Raises:
        UserError: one of them is not a result.
    """
    return {path.stem: read_result(path) for path in sorted(folder.glob("*.json"))}


def checked(content: Any, path: Path) -> dict[str, Any]:
    """Returns a result's content if it is one.

    Raises:
        UserError: a field is missing or of another kind, or a figure is not finite.
    """
    wrong = _wrong(content, path.stem) if isinstance(content, dict) else "it is no JSON object"
    if wrong is not None:
        raise UserError(f"{path}: not the result of a finding: {wrong}")
    return content


def _wrong(content: Mapping[str, Any], name: str) -> str | None:
    known = {*TEXTS, *TABLES, *FIGURES, "holds", "seeds", "seconds", "machine", "versions"}
    if absent := sorted(known - content.keys()):
        return f"{', '.join(absent)} missing"
    texts = [key for key in TEXTS if not isinstance(content[key], str)]
    tables = [key for key in TABLES if not _is_table(content[key])]
    if texts or tables:
        return f"{', '.join(texts + tables)}: text, or a list of objects, expected"
    if content["finding"] != name:
        return f"it is that of {content['finding']}"
    if not isinstance(content["seeds"], list | tuple) or not all(isinstance(seed, int) for seed in content["seeds"]):
        return "seeds must be whole numbers"
    if not _is_number(content["seconds"]):
        return "seconds must be a number"
    found = [("its own figures", content), *((str(claim.get("claim")), claim) for claim in content["claims"])]
    return next((f"{label}: {wrong}" for label, part in found if (wrong := _wrong_figures(part))), None)


def _wrong_figures(part: Mapping[str, Any]) -> str | None:
    if "holds" not in part or part["holds"] not in (True, False, None):
        return "holds must be true, false or null"
    figures = [part.get(key) for key in FIGURES]
    if figures == [None, None, None]:
        return None
    if not all(map(_is_number, figures)):
        return f"{', '.join(FIGURES)} must be numbers, or all null"
    return None if part["ci_low"] <= part["ci_high"] else "ci_low is above ci_high"


def _is_table(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(row, dict) for row in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
