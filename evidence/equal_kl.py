"""Scores of two PPO runs at the same KL, from the validations of both on the same prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evidence.samples import rows_of
from lit_instruct.errors import UserError
from lit_instruct.evaluation.measures import resamples


class Validations(NamedTuple):
    """V validations of a PPO run, each on the same P prompts."""

    prompts: list[str]
    iterations: list[int]
    kl: np.ndarray
    """(V, P) nats per response to the policy that PPO started from."""
    score: np.ndarray
    """(V, P) scores by the labeler."""


def read_validations(samples: Path) -> Validations:
    """Returns the validations of a PPO run from its logs/samples.jsonl.

    Raises:
        UserError: the labeler did not score them, or a validation does not have every prompt once.
    """
    by_iteration: dict[int, dict[str, dict[str, Any]]] = {}
    rows = rows_of(samples)
    for row in rows:
        by_iteration.setdefault(row["iteration"], {})[row["prompt"]] = row
    prompts = sorted({row["prompt"] for row in rows})
    if len(rows) != len(by_iteration) * len(prompts) or any("labeler" not in row for row in rows):
        raise UserError(f"{samples}: not every prompt has a labeler's score at every validation; train it again")
    ordered = [[found[prompt] for prompt in prompts] for _, found in sorted(by_iteration.items())]
    kl, score = (np.array([[row[key] for row in one] for one in ordered], dtype=float) for key in ("kl", "labeler"))
    return Validations(prompts, sorted(by_iteration), kl, score)


def gain_at_equal_kl(ours: Validations, theirs: Validations, seed: int, n: int = 2000) -> dict[str, Any] | None:
    """Returns by how much one run scores higher than another at the largest KL that both reach; None if there is none.

    The mean score of each run is interpolated linearly along its mean KL. The 95 % interval is a percentile bootstrap
    over prompts, which both runs share, at the same KL.

    Args:
        ours: a run.
        theirs: another one, validated on the same prompts.
        seed: of the bootstrap.
        n: number of resamples.

    Raises:
        UserError: the prompts differ.
    """
    if ours.prompts != theirs.prompts:
        raise UserError("the two runs were validated on different prompts; train them with the same validation data")
    low, high = (pick(mean(run) for run in (ours, theirs)) for pick, mean in ((max, _least), (min, _most)))
    if low > high:
        return None
    at = [score_at(run, high, np.arange(len(run.prompts))[None])[0] for run in (ours, theirs)]
    drawn = np.concatenate(list(resamples(len(ours.prompts), seed, n)))
    differences = score_at(ours, high, drawn) - score_at(theirs, high, drawn)
    ends = np.quantile(differences, [0.025, 0.975])
    found = {"kl": high, "mean": at[0] - at[1], "ci_low": ends[0], "ci_high": ends[1], "ours": at[0], "theirs": at[1]}
    return {name: round(float(value), 4) for name, value in found.items()}


def score_at(run: Validations, kl: float, drawn: np.ndarray) -> np.ndarray:
    """Returns the mean score of a run at a KL, interpolated along its mean KL, for each resample of its prompts.

    Args:
        run: the run.
        kl: nats per response; outside of what a resample reaches, its nearest validation counts.
        drawn: (n, P) numbers of prompts.
    """
    kls, scores = run.kl[:, drawn].mean(axis=2), run.score[:, drawn].mean(axis=2)
    found = []
    for own_kl, own_score in zip(kls.T, scores.T, strict=True):
        order = own_kl.argsort(kind="stable")
        found.append(np.interp(kl, own_kl[order], own_score[order]))
    return np.array(found)


def _least(run: Validations) -> float:
    return float(run.kl.mean(axis=1).min())


def _most(run: Validations) -> float:
    return float(run.kl.mean(axis=1).max())
