"""Truthfulness by the questions of TruthfulQA with one true answer, which need the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evidence import hub
from evidence.answers import BASE, PPO, SFT
from evidence.claims import claim
from evidence.context import Context
from evidence.resampling import RESAMPLES, mean_gaps
from evidence.task_scores import Scores, task_scores
from lit_instruct.evaluation.measures import Interval

TASK = "truthfulqa"
LIMIT, QUICK_LIMIT = 817, 4
"""Questions; 817 are all."""
MEASURES = {"acc": "accuracy", "log_prob": "log-probability of the true answer (nats)"}
PAIRS = ((PPO, BASE), (PPO, SFT))

Truth = Mapping[str, Mapping[str, np.ndarray]]
"""Measure -> system -> (seeds, questions)."""


def asked(context: Context, places: Mapping[str, str | Path], seed: int) -> dict[str, Scores]:
    """Returns the scores of each system of a seed.

    Raises:
        UserError: the hub cannot be reached, or lm_eval is not installed.
    """
    tasks = {TASK: hub.truthful_questions(context.runs / hub.FOLDER)}
    folder, limit = context.runs / "truthful_toxic/questions", QUICK_LIMIT if context.quick else LIMIT
    names = {system: system if system == BASE else f"{system}-{seed}" for system in places}
    return {system: task_scores(place, tasks, limit, folder, names[system]) for system, place in places.items()}


def tables(found: Sequence[Mapping[str, Scores]]) -> Truth:
    """Returns each measure of each system; `found` has the scores of each seed."""
    return {
        measure: {system: np.array([own[system][TASK][measure] for own in found]) for system in found[0]}
        for measure in MEASURES
    }


def differences(truth: Truth, n: int = RESAMPLES) -> dict[str, Interval]:
    """Returns <measure>/<system> minus <system> -> mean difference, paired by seed and question."""
    gaps = {
        f"{measure}/{ours} minus {theirs}": own[ours] - own[theirs]
        for measure, own in truth.items()
        for ours, theirs in PAIRS
    }
    return mean_gaps(gaps, n=n)


def claims(truth: Truth) -> list[dict[str, Any]]:
    """Returns that PPO is more truthful than the base and than SFT, by each measure."""
    found = differences(truth)
    return [
        claim(
            f"PPO is more truthful than {theirs} (TruthfulQA, {MEASURES[measure]})",
            found[f"{measure}/PPO minus {theirs}"],
            0.0,
        )
        for measure in truth
        for _, theirs in PAIRS
    ]


def sentence(truth: Truth) -> str:
    """Returns how often each system prefers the true answer."""
    shares = ", ".join(f"{system} {table.mean():.3f}" for system, table in truth["acc"].items())
    count = truth["acc"][PPO].shape[1]
    return f"Of {count} questions of TruthfulQA, the true answer is the most probable one in a share of: {shares}."
