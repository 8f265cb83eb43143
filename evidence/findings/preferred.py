"""Preferred: SFT, best-of-n, PPO and PPO-ptx by judges that no training used, and reward models on new people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evidence import ROOT, held_out_people, hub, hub_people, models
from evidence.answers import BASE, BEST, PPO, PTX, SFT, Sampling, answers
from evidence.claims import above, all_hold, claim, shown
from evidence.context import Context
from evidence.held_out_people import HeldOut
from evidence.relevance import relevance
from evidence.resampling import RESAMPLES, over_seeds_and_prompts
from evidence.result import Result
from evidence.samples import chosen_prompts, rows_of
from lit_instruct.evaluation.labelers import second_opinion
from lit_instruct.evaluation.measures import Interval, wins

NAME = "preferred"
SOURCES = ("packages", "hub")
QUESTION = "Do judges that no training used prefer PPO's answers, and do reward models carry over to new people?"
PROMPTS, QUICK_PROMPTS = 100, 4
JUDGES: Mapping[str, Callable[[Sequence[tuple[str, str]]], list[float]]] = {
    "pleasant words": second_opinion,
    "adds to the prompt": relevance,
}
"""No training and no selection uses them; neither sees whether an answer is right."""
OTHERS = (BASE, BEST, PPO, PTX)

Scores = Mapping[str, Mapping[str, np.ndarray]]
"""Judge -> system -> (seeds, prompts)."""


def measure(context: Context) -> Result:
    """Trains what is missing and returns the finding."""
    count = QUICK_PROMPTS if context.quick else PROMPTS
    sampling = Sampling(tokens=12, best_of=2) if context.quick else Sampling()
    folder = context.runs / (NAME if context.source == "packages" else f"{NAME}-hub")
    file = chosen_prompts(_held_out(context), count, folder / "prompts.jsonl")
    prompts = [row["prompt"] for row in rows_of(file)]
    trained = {seed: models.trained(context, seed) for seed in context.seeds}
    said = [answers(own, prompts, sampling, folder / str(seed), seed) for seed, own in trained.items()]
    return result(context, judged(prompts, said), _people(context, next(iter(trained.values())).sft))


def _held_out(context: Context) -> Path:
    """File of prompts that no model has seen."""
    if context.source == "packages":
        return ROOT / "recipes/demo/data/prompts_validation.jsonl"
    counts = hub.QUICK if context.quick else hub.DIALOGUES
    return hub.dialogues(context.runs / hub.FOLDER, counts) / "prompts_test.jsonl"


def _people(context: Context, sft: Path) -> HeldOut:
    """Accuracies of reward models on people: simulated ones, or with the hub those of TL;DR's comparisons."""
    if context.source == "packages":
        return held_out_people.trained(
            context, sft, held_out_people.QUICK if context.quick else held_out_people.Sizes()
        )
    return hub_people.trained(context, sft, hub_people.QUICK if context.quick else hub_people.Sizes())


def judged(prompts: Sequence[str], said: Sequence[Mapping[str, Sequence[str]]]) -> Scores:
    """Returns the scores of all answers.

    Args:
        prompts: P texts.
        said: of each seed, system -> P answers.
    """
    return {
        judge: {
            system: np.array([score(list(zip(prompts, own[system], strict=True))) for own in said])
            for system in said[0]
        }
        for judge, score in JUDGES.items()
    }


def intervals(scores: Scores, n: int = RESAMPLES) -> dict[str, Interval]:
    """Returns how often each system is preferred to SFT, and by how much, over seeds and prompts.

    <judge>/<system>/wins is the share of prompts on which it scores higher, where ties count half; /gain the mean
    difference. both/<system>/wins is the mean over judges.
    """
    won = {
        (judge, system): np.array([wins(*pair) for pair in zip(own[system].tolist(), own[SFT].tolist(), strict=True)])
        for judge, own in scores.items()
        for system in OTHERS
    }

    def figures(seeds: np.ndarray, prompts: np.ndarray) -> dict[str, float]:
        drawn = np.ix_(seeds, prompts)
        found = {f"{judge}/{system}/wins": float(table[drawn].mean()) for (judge, system), table in won.items()}
        for judge, own in scores.items():
            for system in OTHERS:
                found[f"{judge}/{system}/gain"] = float((own[system] - own[SFT])[drawn].mean())
        for system in OTHERS:
            found[f"both/{system}/wins"] = float(np.mean([found[f"{judge}/{system}/wins"] for judge in scores]))
        return found

    seeds, prompts = next(iter(won.values())).shape
    return over_seeds_and_prompts(figures, seeds, prompts, n=n)


def result(context: Context, scores: Scores, held_out: HeldOut) -> Result:
    """Returns the finding from the scores of all answers and the accuracies on people."""
    found, people = intervals(scores), held_out_people.intervals(held_out)
    main = found[f"both/{PPO}/wins"]
    holds = all_hold(above(found[f"{judge}/{PPO}/wins"], 0.5) for judge in scores)
    return Result(
        finding=NAME,
        question=QUESTION,
        paper=PAPER,
        done=_done(context, scores, held_out),
        holds=holds,
        figure=main.mean,
        ci_low=main.ci_low,
        ci_high=main.ci_high,
        unit="share of prompts on which PPO is preferred to SFT, mean of two judges",
        seeds=list(context.seeds),
        verdict=_verdict(found, people, holds),
        rows=_rows(scores, found),
        plots=[_plot(scores, found)],
        claims=_claims(scores, found, people),
    )


PAPER = (
    "Ouyang et al. 2022, section 4.1: labelers prefer 175B InstructGPT to 175B GPT-3 in 85 +- 3 % of the cases, and "
    "PPO and PPO-ptx to SFT at every size; labelers who wrote no training data do so at about the same rate. Reward "
    "models that learnt from four of five groups of labelers predict 72.4 +- 0.4 % of the comparisons of these and "
    "69.6 +- 0.9 % of those of the fifth"
)


def _done(context: Context, scores: Scores, held_out: HeldOut) -> str:
    seeds, prompts = next(iter(next(iter(scores.values())).values())).shape
    return (
        f"The models of {seeds} seeds (evidence/models.py) answered {prompts} held-out prompts once. Judges: the mean "
        "valence of words by AFINN, which looks at the answer alone, and the cosine of the sentence embeddings "
        "(all-MiniLM-L6-v2) of the prompt and of the answer's new words; neither sees whether an answer is right, "
        f"and the second not whether it is finished. {_done_people(held_out)}; intervals are over seeds and prompts"
    )


def _done_people(held_out: HeldOut) -> str:
    if held_out.agreement is None:
        return (
            "The models learnt from dialogues of HH-RLHF. People are those who compared summaries for Stiennon et al. "
            f"2020 (TL;DR), dealt into {hub_people.GROUPS} groups; reward models learnt from four groups and were "
            "tested on comparisons of all five about other posts"
        )
    return (
        "Simulated people (evidence/people.py) weigh tone by two word lists, topic, length, repetition and a finished "
        f"last sentence differently, with noise; two of them order {100 * held_out.agreement:.0f} % of the pairs of "
        "responses alike (the paper's labelers 73 %). Reward models learnt from four of them, each prompt compared by "
        "one, and were tested on other prompts compared by all five"
    )


def _claims(scores: Scores, found: Mapping[str, Interval], people: Mapping[str, Interval]) -> list[dict[str, Any]]:
    claims = [
        claim(f'{system} is preferred to SFT by the judge "{judge}"', found[f"{judge}/{system}/wins"], 0.5)
        for judge in scores
        for system in (BEST, PPO, PTX)
    ]
    return [
        *claims,
        claim("a reward model orders pairs as people do whom it learnt from", people["training"], 0.5),
        claim("a reward model orders pairs as a person does whom it has never seen", people["held_out"], 0.5),
        claim("it is less accurate on new people", people["difference"], 0.0),
    ]


def _verdict(found: Mapping[str, Interval], people: Mapping[str, Interval], holds: bool | None) -> str:
    said = {True: "prefer", False: "do not both prefer", None: "do not clearly prefer"}[holds]
    main, known, new = found[f"both/{PPO}/wins"], people["training"], people["held_out"]
    return (
        f"Two judges that no training used {said} PPO's answers to SFT's ({100 * main.mean:.0f} % of prompts, "
        f"{100 * main.ci_low:.0f} to {100 * main.ci_high:.0f}); reward models predict {100 * known.mean:.1f} % of the "
        f"comparisons of people they learnt from and {100 * new.mean:.1f} % of a new one's."
    )


def _rows(scores: Scores, found: Mapping[str, Interval]) -> list[dict[str, Any]]:
    """A row for each judge and system."""
    return [
        {
            "judge": judge,
            "system": system,
            "mean score": f"{own[system].mean():.3f}",
            "minus SFT": shown(found[f"{judge}/{system}/gain"], 3) if system != SFT else "",
            "preferred to SFT": shown(found[f"{judge}/{system}/wins"], 2) if system != SFT else "",
        }
        for judge, own in scores.items()
        for system in (BASE, SFT, BEST, PPO, PTX)
    ]


def _plot(scores: Scores, found: Mapping[str, Interval]) -> dict[str, Any]:
    lines = {judge: {system: found[f"{judge}/{system}/wins"] for system in OTHERS} for judge in scores}
    return {
        "title": "preferred to SFT",
        "x": "system",
        "y": "share of prompts",
        "bars": [
            {"name": judge, "points": [[system, *interval] for system, interval in own.items()]}
            for judge, own in lines.items()
        ],
    }
