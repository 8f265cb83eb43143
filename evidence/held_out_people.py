"""A reward model that learns from some people, tested on the comparisons of another one (section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evidence import ROOT
from evidence.agreement import agreed, mean_agreement
from evidence.cached import kept_json
from evidence.context import Context
from evidence.models import SMALL
from evidence.people import PEOPLE, Person
from evidence.resampling import RESAMPLES, over_seeds_and_prompts
from evidence.reward_scores import reward_scores
from evidence.samples import chosen_prompts, rows_of, sampled, write_rows
from evidence.stages import run_stage
from lit_instruct.commands.sample import SampleData, SampleOptions
from lit_instruct.evaluation.measures import Interval
from lit_instruct.judging.comparisons import ranks
from lit_instruct.rollouts.generate import SamplingOptions

DATA = ROOT / "recipes/demo/data"
RM = ROOT / "recipes/evidence/own_samples/rm.yaml"


class Sizes(NamedTuple):
    """How much is compared."""

    train: int = 200
    """Prompts of the comparisons, each compared by one person."""
    test: int = 80
    """Held-out prompts, each compared by all people."""
    k: int = 4
    """Responses to each prompt."""
    tokens: int = 40
    """Most tokens of a response."""
    more: tuple[str, ...] = ()
    """Further options of the reward models."""


QUICK = Sizes(train=10, test=4, k=3, tokens=12, more=SMALL)


class HeldOut(NamedTuple):
    """Accuracies of reward models that learnt from all people but one."""

    accuracy: np.ndarray
    """(seeds, people, people, prompts): share of a prompt's pairs in the order of [.., .., person, ..] by the reward
    model that did not learn from [.., person, ..]."""
    agreement: float | None
    """Share of pairs that two people order alike; None where no two compared the same."""


def trained(context: Context, sft: Path, sizes: Sizes) -> HeldOut:
    """Trains the reward models that are missing and returns their accuracies on held-out prompts.

    Args:
        context: of the finding.
        sft: stage folder of the model whose samples are compared.
        sizes: how much.
    """
    folder = context.runs / "preferred" / "people"
    prompts = chosen_prompts(DATA / "prompts_validation.jsonl", sizes.test, folder / "prompts.jsonl")
    train = rows_of(_sampled(sft, DATA / "prompts_train.jsonl", sizes, folder / "train.jsonl", 1, sizes.train))
    file = _sampled(sft, prompts, sizes, folder / "test.jsonl", 2)
    rewards = []
    for seed in context.seeds:
        for person in PEOPLE:
            learnt = write_rows(folder / f"without-{person.name}.jsonl", without(person, train))
            run = folder / f"rm-without-{person.name}-{seed}"
            given = [f"--model.base={sft}", f"--data.path={learnt}", f"--seed_everything={seed}"]
            run_stage("rm", RM, run, [*given, *sizes.more])
            rewards.append(run / "rm")
    test = rows_of(file)
    asked = [row["prompt"] for row in test for _ in row["responses"]]
    said = [text for row in test for text in row["responses"]]
    scores = kept_json(
        folder / "scores.json", [file, *rewards], lambda: reward_scores(sft, rewards, asked, said).tolist()
    )
    return accuracies([_by_prompt(own, test) for own in scores], test)


def compared_by(person: Person, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns responses ranked by a person, whose name is their `labeler`: `rm validate` reports accuracy by it."""
    return [
        {
            "prompt": row["prompt"],
            "responses": row["responses"],
            "ranks": ranks(person([(row["prompt"], text) for text in row["responses"]])),
            "labeler": person.name,
        }
        for row in rows
    ]


def without(left_out: Person, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns comparisons of all people but one; each prompt has one person, in turns."""
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        person = PEOPLE[number % len(PEOPLE)]
        found += compared_by(person, [row]) if person is not left_out else []
    return found


def accuracies(rewards: Sequence[Sequence[Sequence[float]]], rows: Sequence[dict[str, Any]]) -> HeldOut:
    """Returns how often reward models order pairs as each person does.

    Args:
        rewards: for each seed and in it for each person that is left out, the rewards of each row's responses.
        rows: prompts with their responses.
    """
    judged = [[person([(row["prompt"], text) for text in row["responses"]]) for row in rows] for person in PEOPLE]
    table = np.array([[agreed(own, scores) for scores in judged] for own in rewards])
    return HeldOut(table.reshape(-1, len(PEOPLE), len(PEOPLE), len(rows)), mean_agreement(judged))


def intervals(held_out: HeldOut, n: int = RESAMPLES) -> dict[str, Interval]:
    """Returns accuracies on people that a reward model learnt from (training) and on the other one (held_out).

    Both with 95 % intervals over seeds and prompts, and their paired difference.
    """
    same = np.eye(len(PEOPLE), dtype=bool)

    def figures(seeds: np.ndarray, prompts: np.ndarray) -> dict[str, float]:
        means = held_out.accuracy[seeds][..., prompts].mean(axis=(0, 3))
        training, other = float(means[~same].mean()), float(means[same].mean())
        return {"training": training, "held_out": other, "difference": training - other}

    return over_seeds_and_prompts(figures, len(held_out.accuracy), held_out.accuracy.shape[3], n=n)


def _sampled(sft: Path, prompts: Path, sizes: Sizes, out: Path, seed: int, limit: int | None = None) -> Path:
    data, sampling = SampleData(str(prompts), limit), SamplingOptions(max_new_tokens=sizes.tokens)
    labeler = f"evidence.people.{PEOPLE[0].name}"  # ranks the file; all people rank it anew
    return sampled(SampleOptions(str(sft), data, str(out), sizes.k, labeler, sampling, seed=seed))


def _by_prompt(scores: Sequence[float], rows: Sequence[dict[str, Any]]) -> list[list[float]]:
    left = iter(scores)
    return [[next(left) for _ in row["responses"]] for row in rows]
