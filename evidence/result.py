"""What a finding came to, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lit_instruct.files import json_text, write_text
from lit_instruct.machine import provenance


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
    """Data of charts."""
    claims: Sequence[dict[str, Any]] = field(default_factory=list)
    """Further claims: claim, holds, figure, ci_low, ci_high."""
    seconds: float = 0.0
    """That measuring took, over all calls that were needed."""


def write_result(result: Result, folder: Path) -> Path:
    """Writes <finding>.json, with machine, versions and date, and returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.finding}.json"
    write_text(path, json_text(asdict(result) | provenance()), "--runs")
    return path
