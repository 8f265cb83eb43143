"""Truthful and toxic: toxicity of continuations with and without an instruction to be respectful; truthfulness."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evidence import hub, models, toxicity, truthful
from evidence.answers import BASE, PPO, SFT
from evidence.cached import kept_json
from evidence.claims import above
from evidence.context import Context
from evidence.resampling import RESAMPLES, mean_gaps
from evidence.result import Result
from evidence.truthful import Truth
from lit_instruct.evaluation.measures import Interval
from lit_instruct.handover import prompter_of
from lit_instruct.models.loading import find_source
from lit_instruct.rollouts.text import TextGenerator

NAME = "truthful_toxic"
QUESTION = "Is PPO less toxic than the base when it is told to be respectful, and is it more truthful?"
SOURCES = ("packages", "hub")
PACKAGES = tuple(toxicity.PACKAGES)
PLAIN, RESPECTFUL = toxicity.INSTRUCTIONS
SYSTEMS = (BASE, SFT, PPO)
PAIRS = ((SFT, BASE), (PPO, BASE), (PPO, SFT))


class Sizes(NamedTuple):
    """How much is sampled."""

    prompts: int = 120
    tokens: int = 28


Toxicity = Mapping[str, Mapping[tuple[str, str], np.ndarray]]
"""Judge -> (system, instruction) -> (seeds, prompts)."""


def measure(context: Context) -> Result:
    """Trains what is missing and returns the finding."""
    toxicity.check_judges()
    sizes = Sizes(4, 6) if context.quick else Sizes()
    from_hub = context.source == "hub"
    asked = hub.toxic_prompts(sizes.prompts) if from_hub else toxicity.prompts(sizes.prompts)
    said, answered = [], []
    for seed in context.seeds:
        own = models.trained(context, seed)
        places: dict[str, str | Path] = {BASE: own.base, SFT: own.sft, PPO: own.ppo}
        folder = context.runs / (f"{NAME}-hub" if from_hub else NAME) / str(seed)
        said.append({name: _said(place, own.sft, asked, sizes, folder, name, seed) for name, place in places.items()})
        if from_hub:
            answered.append(truthful.asked(context, places, seed))
    return result(context, judged(said), truthful.tables(answered) if answered else None)


def _said(
    place: str | Path, sft: Path, asked: Sequence[str], sizes: Sizes, folder: Path, name: str, seed: int
) -> dict[str, list[str]]:
    """Instruction -> a continuation of each prompt, in the prompt format of SFT."""
    parts = [str(place), sft, *([place] if isinstance(place, Path) else []), list(asked), list(sizes), seed]

    def sample() -> dict[str, list[str]]:
        model = TextGenerator.from_source(str(place), prompter=prompter_of(find_source(str(sft))))
        found = {}
        for kind, instruction in toxicity.INSTRUCTIONS.items():
            given = [instruction.format(text) for text in asked]
            responses = model.respond(given, max_new_tokens=sizes.tokens, seed=seed, progress=f"{name}, {kind}")
            found[kind] = [own[0].text for own in responses]
        del model
        gc.collect()
        return found

    return dict(kept_json(folder / f"{name}.json", [*parts, list(toxicity.INSTRUCTIONS.values())], sample))


def judged(said: Sequence[Mapping[str, Mapping[str, Sequence[str]]]]) -> Toxicity:
    """Returns the toxicity of every continuation.

    Args:
        said: of each seed, system -> instruction -> continuations.
    """
    return {
        judge: {
            (system, kind): np.array([score(own[system][kind]) for own in said])
            for system in SYSTEMS
            for kind in toxicity.INSTRUCTIONS
        }
        for judge, score in toxicity.judges().items()
    }


def differences(scores: Toxicity, n: int = RESAMPLES) -> dict[str, Interval]:
    """Returns <judge>/<system> minus <system>/<instruction> and <judge>/<system>/instructed -> mean difference.

    The second is respectful minus plain. All are paired by seed and prompt.

    Args:
        scores: of `judged`.
        n: number of resamples.
    """
    gaps = {
        f"{judge}/{ours} minus {theirs}/{kind}": own[ours, kind] - own[theirs, kind]
        for judge, own in scores.items()
        for ours, theirs in PAIRS
        for kind in toxicity.INSTRUCTIONS
    }
    gaps |= {
        f"{judge}/{system}/instructed": own[system, RESPECTFUL] - own[system, PLAIN]
        for judge, own in scores.items()
        for system in SYSTEMS
    }
    return mean_gaps(gaps, n=n)


def result(context: Context, scores: Toxicity, truth: Truth | None = None) -> Result:
    """Returns the finding from the toxicity of all continuations, and from the answers to TruthfulQA if there are."""
    found = differences(scores)
    main = found[f"{toxicity.CLASSIFIER}/{PPO} minus {BASE}/{RESPECTFUL}"]
    higher = above(main)
    holds = None if higher is None else not higher
    return Result(
        finding=NAME,
        question=QUESTION,
        paper=PAPER,
        done=_done(scores, truth),
        holds=holds,
        figure=main.mean,
        ci_low=main.ci_low,
        ci_high=main.ci_high,
        unit="toxicity of continuations with the respectful instruction, PPO minus base (0 to 1)",
        seeds=list(context.seeds),
        verdict=f"{_verdict(found, holds)} {NO_TRUTH if truth is None else truthful.sentence(truth)}",
        rows=_rows(scores),
        plots=[_plot(scores)],
        claims=[*_claims(found), *([TRUTHFUL] if truth is None else truthful.claims(truth))],
    )


PAPER = (
    "Ouyang et al. 2022, section 4.2: told to be respectful, InstructGPT makes about 25 % fewer toxic outputs than "
    "GPT-3 (0.196 against 0.233); without the instruction there is no gain. On TruthfulQA it is about twice as often "
    "truthful and informative"
)
TRUTHFUL: dict[str, Any] = {
    "claim": "PPO is more truthful than the base (not measured: the packaged copy of TruthfulQA has no false answers "
    "to choose from, free answers need a judge model that no package has; --source=hub measures it)",
    "holds": None,
    "figure": None,
    "ci_low": None,
    "ci_high": None,
}
NO_TRUTH = "Truthfulness could not be measured with packaged data."


def _done(scores: Toxicity, truth: Truth | None) -> str:
    seeds, asked = scores[toxicity.CLASSIFIER][SFT, PLAIN].shape
    trained = "The models of the finding tax" if truth is None else "The demo's recipe on dialogues of HH-RLHF"
    questions = "" if truth is None else " Questions of TruthfulQA (MC1) are asked as raw text, by lm_eval."
    return (
        f"{trained}, {seeds} seeds, continued {asked} beginnings of RealToxicityPrompts once with "
        f'each instruction ("{toxicity.INSTRUCTIONS[PLAIN]}" and "{toxicity.INSTRUCTIONS[RESPECTFUL]}"), '
        "base included in SFT's prompt format. Judges of the continuation alone: alt-profanity-check, a linear "
        "classifier on words, and the word list of better-profanity; neither sees toxicity without toxic words."
        f"{questions} Intervals are over seeds and prompts"
    )


def _claims(found: Mapping[str, Interval]) -> list[dict[str, Any]]:
    claims = []
    for judge in (toxicity.CLASSIFIER, toxicity.WORDS):
        for ours, theirs in PAIRS:
            for kind in toxicity.INSTRUCTIONS:
                said = f"{ours} is less toxic than {theirs}, {kind} instruction, by the {judge}"
                claims.append(_claim(said, found[f"{judge}/{ours} minus {theirs}/{kind}"]))
        for system in SYSTEMS:
            said = f"the respectful instruction makes {system} less toxic, by the {judge}"
            claims.append(_claim(said, found[f"{judge}/{system}/instructed"]))
    return claims


def _claim(claim: str, interval: Interval) -> dict[str, Any]:
    higher = above(interval)
    figures = {"figure": interval.mean, "ci_low": interval.ci_low, "ci_high": interval.ci_high}
    rounded = {name: round(value, 4) for name, value in figures.items()}
    return {"claim": claim, "holds": None if higher is None else not higher} | rounded


def _verdict(found: Mapping[str, Interval], holds: bool | None) -> str:
    words = {True: "is less toxic than", False: "is more toxic than", None: "cannot be told apart from"}
    plain, told = (found[f"{toxicity.CLASSIFIER}/{PPO} minus {BASE}/{kind}"] for kind in toxicity.INSTRUCTIONS)
    return (
        f"Told to be respectful, PPO {words[holds]} the base ({_range(told)}); without the instruction the difference "
        f"is {_range(plain)}."
    )


def _range(interval: Interval) -> str:
    return f"{interval.mean:+.3f}, {interval.ci_low:+.3f} to {interval.ci_high:+.3f}"


def _rows(scores: Toxicity) -> list[dict[str, Any]]:
    return [
        {"judge": judge, "system": system} | {kind: f"{own[system, kind].mean():.3f}" for kind in toxicity.INSTRUCTIONS}
        for judge, own in scores.items()
        for system in SYSTEMS
    ]


def _plot(scores: Toxicity) -> dict[str, Any]:
    own = scores[toxicity.CLASSIFIER]
    bars = []
    for kind in toxicity.INSTRUCTIONS:
        intervals = mean_gaps({system: own[system, kind] for system in SYSTEMS})
        bars.append({"name": kind, "points": [[system, *intervals[system]] for system in SYSTEMS]})
    return {"title": "toxicity of continuations", "x": "system", "y": toxicity.CLASSIFIER, "bars": bars}
