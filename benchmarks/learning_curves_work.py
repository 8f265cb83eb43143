"""The settings of the learning curves of PPO, how runs become curves, and their goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

SIDES = {"ours": "lit-instruct", "ours_top_third": "lit-instruct, trunk cache", "trl": "TRL 1.12"}
"""Side -> its name in charts."""
WINDOW = 3
"""A point of a curve is the mean of this many iterations, the last one included."""
TIME_GOALS = {"ours": 1 / 3, "ours_top_third": 1 / 4}
"""Most of TRL's time to its final score that ours may take: the project's own targets, set before measuring."""
MORE_ITERATIONS = {"ours": 4, "ours_top_third": 9}
"""Iterations beyond TRL's: as many as fit into the time that the goals give."""
FIGURES = ("labeler", "reward", "kl", "response_length", "eos_share")
Run = dict[str, Any]
Curve = dict[str, list[float]]


@dataclass(frozen=True)
class Settings:
    """Hyperparameters that all sides share: the demo's, as far as TRL 1.12 has them."""

    iterations: int = 13  # of TRL
    batch_size: int = 32  # prompts per iteration
    response_tokens: int = 40  # limit per response
    inner_epochs: int = 2  # passes over a batch
    minibatches: int = 2  # optimizer steps per pass
    micro_batch_size: int = 8  # sequences per forward and backward
    learning_rate: float = 1.5e-3  # of the policy's adapter
    value_learning_rate: float = 5e-4  # of the value function; in TRL, which trains a whole value model, of its head
    value_trunk_learning_rate: float = 1e-5  # of the decoder of TRL's value model
    warmup_iterations: int = 4  # in which the rates rise from a tenth
    kl_coef: float = 0.04  # coefficient of KL (nats), on rewards as the reward model gives them
    missing_eos_penalty: float = 1.0  # subtracted from the score of a response without EOS
    lora_r: int = 8  # rank; alpha is 32 everywhere


def settings_of(side: str, settings: Settings) -> Settings:
    """Returns the settings of a side, which trains for as long as its time goal gives."""
    return replace(settings, iterations=settings.iterations + MORE_ITERATIONS.get(side, 0))


def run_of(side: str, seed: int, iterations: Sequence[Mapping[str, float]], **more: Any) -> Run:
    """Returns a finished run from seconds and FIGURES of its iterations, with the time elapsed at the end of each."""
    elapsed, found = 0.0, []
    for iteration in iterations:
        elapsed += iteration["seconds"]
        figures = {name: round(iteration[name], 4) for name in FIGURES}
        found.append({"seconds": round(iteration["seconds"], 2), "elapsed": round(elapsed, 2), **figures})
    return {"side": side, "seed": seed, **more, "iterations": found}


def smoothed(values: Sequence[float], window: int = WINDOW) -> list[float]:
    """Returns the running mean: at each place that of the last `window` values up to it."""
    return [mean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]


def curve_of(runs: Sequence[Run]) -> Curve:
    """Returns the runs of a side as one curve: elapsed, kl and labeler, and the band of the labeler over the runs."""
    columns = {
        name: [smoothed([iteration[name] for iteration in run["iterations"]]) for run in runs]
        for name in ("labeler", "kl", "reward")
    }
    elapsed = [[iteration["elapsed"] for iteration in run["iterations"]] for run in runs]
    curve = {name: _at_each(mean, found) for name, found in {**columns, "elapsed": elapsed}.items()}
    curve["lowest"], curve["highest"] = _at_each(min, columns["labeler"]), _at_each(max, columns["labeler"])
    return curve


def reaches(curve: Curve, score: float) -> int | None:
    """Returns the first iteration (from 0) at which a curve's labeler score is at least `score`; None if never."""
    return next((number for number, found in enumerate(curve["labeler"]) if found >= score), None)


def compared(curves: Mapping[str, Curve]) -> dict[str, Any]:
    """Returns when and at what KL each side first has TRL's final score, and the goals; nothing without TRL's curve."""
    if "trl" not in curves:
        return {}
    score = curves["trl"]["labeler"][-1]
    points = {side: _point(curve, reaches(curve, score)) for side, curve in curves.items()}
    found: dict[str, Any] = {"trl_final_score": round(score, 3), "reached": points, "goals": {}}
    theirs = points["trl"]
    assert theirs is not None  # its last iteration reaches it
    for side, most in TIME_GOALS.items():
        if side in points:
            point = points[side]
            share = point["seconds"] / theirs["seconds"] if point else None
            found["goals"][side] = {
                "time_share": {
                    "goal": round(most, 3),
                    "found": round(share, 3) if share is not None else None,
                    "reached": share is not None and share <= most,
                },
                "kl": {
                    "goal": theirs["kl"],
                    "found": point and point["kl"],
                    "reached": point is not None and point["kl"] <= theirs["kl"],
                },
            }
    return found


def _point(curve: Curve, number: int | None) -> dict[str, float] | None:
    if number is None:
        return None
    names = {"seconds": "elapsed", "kl": "kl", "labeler": "labeler"}
    return {"iteration": number + 1} | {name: round(curve[of][number], 3) for name, of in names.items()}


def _at_each(figure: Any, rows: Sequence[Sequence[float]]) -> list[float]:
    return [round(float(figure(column)), 4) for column in zip(*rows, strict=True)]
