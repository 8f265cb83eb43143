"""The accuracy of each round's reward model on the held-out comparisons of every round."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_instruct.evaluation.measures import rounded
from lit_instruct.evaluation.reward_measures import pair_accuracy, ranked_pairs
from lit_instruct.files import digest
from lit_instruct.iterating.rounds import Round
from lit_instruct.running.own_process import Run

Matrix = list[list[dict[str, Any] | None]]
"""[reward model of round m][comparisons of round n] -> value, ci_low, ci_high, pairs, rows."""


def accuracies(rounds: Sequence[Round], run: Run, seed: int) -> Matrix:
    """Returns the matrix of the rounds so far; only what is new is scored.

    Args:
        rounds: with their reward models and comparisons.
        run: runs a command.
        seed: of the bootstrap.

    Raises:
        UserError: a reward model cannot score the rows.
    """
    folder = rounds[-1].loop / "matrix"
    folder.mkdir(parents=True, exist_ok=True)
    scored = [_scored(folder, model, rounds, run) for model in rounds]
    return [
        [accuracy_of([row for row in rows if row["round"] == one.number], seed) for one in rounds] for rows in scored
    ]


def accuracy_of(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any] | None:
    """Returns the share of pairs in the labeler's order, with its interval; None if there is no pair.

    Args:
        rows: {ranks, rewards} of each comparison.
        seed: of the bootstrap.
    """
    pairs = ranked_pairs([row["rewards"] for row in rows], [row["ranks"] for row in rows])
    found = pair_accuracy(pairs, np.ones(len(pairs.row), dtype=bool), seed)
    return None if found is None else rounded(found)


def _scored(folder: Path, model: Round, rounds: Sequence[Round], run: Run) -> list[dict[str, Any]]:
    """The comparisons of some rounds with their rewards; another model or other rows have a file of another name."""
    found = []
    for group in _groups(model, rounds):
        files = [one.held_out for one in group]
        out = folder / f"rm-{model.number}-{digest(model.rm, *files)}.jsonl"
        if not out.is_file():
            part = out.with_suffix(".part.jsonl")
            data = ",".join(map(str, files))
            run(["rm", "score", f"--run={model.rm}", f"--data.path={data}", f"--out={part}"], folder / "score.log")
            part.rename(out)
        found += [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return found


def _groups(model: Round, rounds: Sequence[Round]) -> list[Sequence[Round]]:
    """Rounds that are scored together: those up to the model's own, then each later one when it is there."""
    known = [one for one in rounds if one.number <= model.number]
    return [known, *([one] for one in rounds if one.number > model.number)]
