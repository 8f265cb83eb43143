"""Alignment tax: what SFT and PPO cost on tasks and texts that they do not train, and whether PPO-ptx repairs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evidence import models, questions
from evidence.answers import BASE, PPO, PTX, SFT
from evidence.claims import above, shown
from evidence.context import Context
from evidence.resampling import RESAMPLES, mean_gaps
from evidence.result import Result
from evidence.task_scores import Scores, task_scores
from lit_instruct.evaluation.measures import Interval

NAME = "tax"
QUESTION = "Does PPO cost the model what it knew, and does the pretraining mix (PPO-ptx) repair it?"
PACKAGES = ("lm_eval",)
NO_HUB = "which carry the same questions (the hub's own tasks: lit-instruct eval --tasks=piqa,openbookqa,boolq)"
LIMIT, QUICK_LIMIT = 200, 4
"""Questions per task."""
PAIRS = ((SFT, BASE), (PPO, BASE), (PTX, BASE), (PPO, SFT), (PTX, PPO))
ACCURACY, LOG_PROB = "accuracy", "log-probability of the answer (nats)"
DOMAIN, OTHER = "passages of the mix's domain (nats per token)", "essays (nats per token)"
MEASURES = (ACCURACY, LOG_PROB, DOMAIN, OTHER)

Tables = Mapping[str, Mapping[str, np.ndarray]]
"""Measure -> system -> (seeds, questions)."""


def measure(context: Context) -> Result:
    """Trains what is missing and returns the finding."""
    limit = QUICK_LIMIT if context.quick else LIMIT
    tasks = questions.write(context.runs / questions.FOLDER)
    found = []
    for seed in context.seeds:
        own, folder = models.trained(context, seed), context.runs / NAME
        places: dict[str, str | Path] = {BASE: own.base, SFT: own.sft, PPO: own.ppo, PTX: own.ptx}
        names = {system: system if system == BASE else f"{system}-{seed}" for system in places}
        found.append({s: task_scores(place, tasks, limit, folder, names[s]) for s, place in places.items()})
    return result(context, tables(found))


def tables(found: Sequence[Mapping[str, Scores]]) -> Tables:
    """Returns each measure of each system; questions of all tasks with choices stand one after the other.

    Args:
        found: of each seed, system -> its scores.
    """
    chosen: dict[str, Sequence[tuple[str, str]]] = {
        ACCURACY: [(task, "acc") for task in questions.CHOICES],
        LOG_PROB: [(task, "log_prob") for task in questions.CHOICES],
        DOMAIN: [(questions.DOMAIN, "nats")],
        OTHER: [(questions.OTHER, "nats")],
    }
    return {
        measure: {
            system: np.array([np.concatenate([own[system][task][key] for task, key in parts]) for own in found])
            for system in found[0]
        }
        for measure, parts in chosen.items()
    }


def differences(scores: Tables, n: int = RESAMPLES) -> dict[str, dict[tuple[str, str], Interval]]:
    """Returns measure -> (ours, theirs) -> mean difference, paired by seed and question.

    Args:
        scores: of `tables`.
        n: number of resamples.
    """
    found = {}
    for measure, own in scores.items():
        intervals = mean_gaps({"/".join(pair): own[pair[0]] - own[pair[1]] for pair in PAIRS}, n=n)
        found[measure] = {pair: intervals["/".join(pair)] for pair in PAIRS}
    return found


def result(context: Context, scores: Tables) -> Result:
    """Returns the finding from the scores of all systems."""
    gaps = differences(scores)
    repair = gaps[LOG_PROB][PTX, PPO]
    parts = [tax_of(gaps, PPO, measure) for measure in (LOG_PROB, DOMAIN)]
    parts += [repair_of(gaps, measure) for measure in (LOG_PROB, DOMAIN)]
    holds = True if all(parts) else False if any(part is False for part in parts) else None
    return Result(
        finding=NAME,
        question=QUESTION,
        paper=PAPER,
        done=_done(scores),
        holds=holds,
        figure=repair.mean,
        ci_low=repair.ci_low,
        ci_high=repair.ci_high,
        unit="nats: log-probability of the right answer, PPO-ptx minus PPO",
        seeds=list(context.seeds),
        verdict=_verdict(gaps, holds),
        rows=_rows(scores, gaps),
        plots=[_plot(gaps)],
        claims=_claims(gaps),
    )


PAPER = (
    "Ouyang et al. 2022, sections 4.2 and 5.1: PPO loses on public NLP tasks (175B, few-shot, GPT-3 / PPO / PPO-ptx: "
    "HellaSwag .791 / .759 / .820, DROP 35.3 / 27.8 / 33.3); mixing in pretraining gradients repairs most of it"
)


def tax_of(gaps: Mapping[str, Mapping[tuple[str, str], Interval]], system: str, measure: str) -> bool | None:
    """Returns whether a system is worse than the base; None if the interval has 0 in it.

    Args:
        gaps: of `differences`.
        system: SFT or one of the policies.
        measure: of `MEASURES`; texts are worse the more nats they take.
    """
    higher = above(gaps[measure][system, BASE])
    return higher if higher is None or measure in (DOMAIN, OTHER) else not higher


def repair_of(gaps: Mapping[str, Mapping[tuple[str, str], Interval]], measure: str) -> bool | None:
    """Returns whether PPO-ptx is better than PPO; None if the interval has 0 in it.

    Args:
        gaps: of `differences`.
        measure: of `MEASURES`.
    """
    higher = above(gaps[measure][PTX, PPO])
    return higher if higher is None or measure in (ACCURACY, LOG_PROB) else not higher


def _done(scores: Tables) -> str:
    seeds, asked = scores[ACCURACY][SFT].shape
    texts = scores[DOMAIN][SFT].shape[1] + scores[OTHER][SFT].shape[1]
    return (
        f"The demo's recipe, {seeds} seeds; PPO-ptx with coefficient 0.1, batch ratio 0.5 and passages of BoolQ. "
        f"lm_eval asked {asked} questions of {', '.join(questions.CHOICES)} as raw text, and {texts} held-out texts: "
        "passages of BoolQ that the mix has not seen, and the demo's essays. Log-probability is that of the right "
        "answer among the choices. Differences are paired; intervals are over seeds and questions"
    )


def _claims(gaps: Mapping[str, Mapping[tuple[str, str], Interval]]) -> list[dict[str, Any]]:
    claims = []
    for measure in MEASURES:
        for system in (SFT, PPO, PTX):
            said = f"{system} is worse than the base: {measure}"
            claims.append(_claim(said, tax_of(gaps, system, measure), gaps[measure][system, BASE]))
        said = f"PPO-ptx is better than PPO: {measure}"
        claims.append(_claim(said, repair_of(gaps, measure), gaps[measure][PTX, PPO]))
    return claims


def _claim(claim: str, holds: bool | None, interval: Interval) -> dict[str, Any]:
    figures = {"figure": interval.mean, "ci_low": interval.ci_low, "ci_high": interval.ci_high}
    return {"claim": claim, "holds": holds} | {name: round(value, 4) for name, value in figures.items()}


def _verdict(gaps: Mapping[str, Mapping[tuple[str, str], Interval]], holds: bool | None) -> str:
    words = {True: "holds", False: "does not hold", None: "is not settled"}
    pairs = ((LOG_PROB, (PPO, BASE)), (DOMAIN, (PPO, BASE)), (LOG_PROB, (PTX, PPO)), (DOMAIN, (PTX, PPO)))
    tax, nats, repair, repaired = (shown(gaps[measure][pair], signed=True) for measure, pair in pairs)
    return (
        f"It {words[holds]}: PPO changes the log-probability of right answers by {tax} nats and held-out passages by "
        f"{nats} nats a token; PPO-ptx gives back {repair} and {repaired}."
    )


def _rows(scores: Tables, gaps: Mapping[str, Mapping[tuple[str, str], Interval]]) -> list[dict[str, Any]]:
    return [
        {"measure": measure, "system": system, "mean": f"{table.mean():.3f}"}
        | {"minus base": "" if system == BASE else shown(gaps[measure][system, BASE], signed=True)}
        | {"minus PPO": shown(gaps[measure][PTX, PPO], signed=True) if system == PTX else ""}
        for measure, own in scores.items()
        for system, table in own.items()
    ]


def _plot(gaps: Mapping[str, Mapping[tuple[str, str], Interval]]) -> dict[str, Any]:
    by_system = {system: {measure: gaps[measure][system, BASE] for measure in MEASURES} for system in (SFT, PPO, PTX)}
    return {
        "title": "minus the base",
        "x": "measure",
        "y": "difference",
        "bars": [
            {"name": system, "points": [[measure, *interval] for measure, interval in own.items()]}
            for system, own in by_system.items()
        ],
    }
