"""The table of recipes/demo/results/rounds-*.json for the pages of evidence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence import ROOT
from lit_instruct.errors import UserError
from lit_instruct.evaluation.page import number, signed
from lit_instruct.progress import in_words

RESULTS = ROOT / "recipes/demo/results"
QUESTION = (
    "Do rounds of comparisons, reward model and PPO beat one long PPO run with as many comparisons and episodes at the "
    "same KL, and does the first reward model fail on the last policy's responses?"
)
NOT_MEASURED = "not measured yet"
COLUMNS = (
    "seed",
    "KL in nats",
    "labeler score, rounds",
    "labeler score, one run",
    "difference (95 % interval)",
    "pair accuracy on the last policy, first model",
    "last model",
    "time",
)


def rounds_results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Returns the results of all seeds that were measured.

    Raises:
        UserError: a file is no result.
    """
    found = []
    for path in sorted(folder.glob("rounds-*.json")):
        try:
            one = json.loads(path.read_text(encoding="utf-8"))
            cells(one)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a result of evidence.rounds ({error!r}); measure it again") from error
        found.append(one)
    return found


def cells(one: dict[str, Any]) -> list[str]:
    """Returns the row of a seed's result, in the order of `COLUMNS`."""
    gain, last = one["equal_kl"], one["last_policy"]
    scores = ["-"] * 4
    if gain is not None:
        interval = f"{signed(gain['mean'])} ({signed(gain['ci_low'])} to {signed(gain['ci_high'])})"
        scores = [number(gain["kl"]), signed(gain["ours"]), signed(gain["theirs"]), interval]
    accuracies = [number(last[name]["value"]) for name in ("first", "last")]
    return [str(one["seed"]), *scores, *accuracies, in_words(one["seconds"])]


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """Returns the section of docs/evidence.md."""
    lines = ["\n## rounds\n", f"**{QUESTION}**"]
    if not results:
        return "\n".join(
            [f"{lines[0]}\n{lines[1]} {NOT_MEASURED.capitalize()}: `.venv/bin/python -m evidence.rounds`."]
        )
    verdicts = [f"- seed {one['seed']}: {one['verdict']}" for one in results]
    rows = [COLUMNS, ["---"] * len(COLUMNS), *map(cells, results)]
    return "\n".join([*lines, "", *verdicts, "", *(f"| {' | '.join(row)} |" for row in rows)])
