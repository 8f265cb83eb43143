"""Training speed of a stage in tokens per second: as given, or as `make gpu-check` measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lit_instruct.errors import UserError
from lit_instruct.planning.work import StageName

RESULTS = Path("benchmarks") / "results"


@dataclass(frozen=True)
class Rate:
    """A speed and its source."""

    tokens_per_second: float
    origin: str


def given_rate(tokens_per_second: float) -> Rate:
    """Returns the user's figure.

    Raises:
        UserError: it is not above 0.
    """
    if tokens_per_second <= 0:
        raise UserError(f"--tokens-per-second={tokens_per_second:g}: must be above 0")
    return Rate(tokens_per_second, "given")


def measured_rate(config: Path, stage: StageName) -> Rate | None:
    """Returns what `make gpu-check` measured for a recipe, recipes/<name>/<stage>.yaml; None if it did not run."""
    found = measured(config.parent, stage)
    if found is None or "tokens_per_second" not in found:
        return None
    return Rate(float(found["tokens_per_second"]), f"measured, {RESULTS / file_name(config.parent.name)}")


def measured(recipe: Path, stage: str) -> dict[str, float] | None:
    """Returns everything that `make gpu-check` wrote about a stage, for a recipe's folder; None if it did not run."""
    file = recipe.resolve().parent.parent / RESULTS / file_name(recipe.name)
    try:
        stages = json.loads(file.read_text(encoding="utf-8"))["stages"]
    except (OSError, ValueError, KeyError):
        return None
    return dict(stages[stage]) if stage in stages else None


def file_name(recipe: str) -> str:
    """Returns the name of the file that `make gpu-check` writes for a recipe."""
    return f"gpu-{recipe.removeprefix('gpu-')}.json"
