"""Reward model: how often it orders two responses as people do, by size of data, beside what the response alone tells.

Two kinds of labels of people: critics who recommend a film or not, and answers to questions that are right or wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evidence import ROOT, hub, review_models, right_answers
from evidence.baselines import BASELINES, Agreement, Rows, agreement, responses
from evidence.cached import kept_json
from evidence.claims import above, shown
from evidence.context import Context
from evidence.resampling import Figures, over_seeds_and_prompts
from evidence.result import Result
from evidence.stages import run_stage
from lit_instruct import score
from lit_instruct.evaluation.measures import Interval

NAME = "reward_model"
SOURCES = ("packages", "hub")
QUESTION = (
    "How often does a reward model order two responses as people do, and is that more than the response alone tells?"
)
PAPER = (
    "Ouyang et al. 2022: the 6B reward model predicts the preferred response with 72.4 % accuracy for the labelers "
    "that it was trained on, and 69.6 % for held-out ones (section 4.1, appendix E.2). Stiennon et al. 2020 "
    "(section 4.3): twice the data raises accuracy by about 1.1 points"
)
RECIPE = ROOT / "recipes/evidence/answers/rm.yaml"
SIZES = (50, 100, 200, 400)
ANSWERS = 400
"""Questions that the reward models of right and wrong answers learn from."""
SHARED = 200
"""Comparisons of the reward models that every seed has: those of the sentiment finding."""
QUICK_SIZE = 8
TITLES = {
    "reviews": "fresh or rotten (critics)",
    "piqa": "right or wrong (PIQA)",
    "nq": "right or wrong (NQ-open)",
    "hh": "helpful and harmless (HH-RLHF)",
}
WHAT = {
    "reviews": "up to two fresh and two rotten sentences of critics about the same film, split by film",
    "piqa": "one right and one wrong way to reach a goal (PIQA)",
    "nq": "one right and one wrong answer to a question (NQ-open, wrong ones judged by people)",
    "hh": "the better and the worse of two responses in a conversation (HH-RLHF)",
}
LENGTH, WORDS = BASELINES


class Task(NamedTuple):
    """A reward model's training, and what it is measured on."""

    data: str
    size: int
    models: list[Path]
    """A stage folder for each seed."""
    training: Rows
    test: Rows


class Scored(NamedTuple):
    """Agreement with people on N comparisons."""

    task: Task
    model: list[Agreement]
    """Of each seed."""
    baselines: dict[str, Agreement]


def measure(context: Context) -> Result:
    """Trains what is missing and returns the finding."""
    return result(context, [scored(context, task) for task in tasks(context)])


def tasks(context: Context) -> list[Task]:
    """Returns the tasks with trained reward models; the size that the sentiment finding uses has one for each seed."""
    made = _of_the_hub(context) if context.source == "hub" else [*_of_reviews(context), *_of_answers(context)]
    return [task._replace(test=task.test[:4]) for task in made] if context.quick else made


def _of_reviews(context: Context) -> list[Task]:
    training, test = _parts(review_models.data(context), "ranked")
    return [
        Task("reviews", n, [review_models.reward_model(context, seed, n) for seed in seeds], training[:n], test)
        for n, seeds in _sizes(context).items()
    ]


def _of_answers(context: Context) -> list[Task]:
    folder, size = context.runs / "data/answers", QUICK_SIZE if context.quick else ANSWERS
    right_answers.write(folder)
    return [_task(context, name, folder, size, context.seeds[:1]) for name in right_answers.READERS]


def _of_the_hub(context: Context) -> list[Task]:
    folder, sizes = context.runs / "data/hub", _sizes(context)
    hub.write(folder, "hh", hub.HH_RLHF, {"training": max(sizes), "test": right_answers.HELD_OUT})
    return [_task(context, "hh", folder, size, seeds) for size, seeds in sizes.items()]


def _sizes(context: Context) -> dict[int, Sequence[int]]:
    """Number of comparisons -> seeds of the reward models that learn from them."""
    if context.quick:
        return {QUICK_SIZE: context.seeds}
    return {size: context.seeds if size == SHARED else context.seeds[:1] for size in SIZES}


def _task(context: Context, name: str, folder: Path, size: int, seeds: Sequence[int]) -> Task:
    training, test = _parts(folder, name)
    models = [_trained(context, name, folder, size, seed) for seed in seeds]
    return Task(name, size, models, training[:size], test)


def _trained(context: Context, name: str, folder: Path, size: int, seed: int) -> Path:
    run = context.runs / f"answers-{name}-{size}-{seed}"
    paths = [f"--data.path={folder / name}_training.jsonl", f"--data.validation_path={folder / name}_test.jsonl"]
    more = review_models.QUICK["rm"] if context.quick else ()
    given = [f"--model.base={context.base}", *paths, f"--data.limit={size}", f"--seed_everything={seed}"]
    run_stage("rm", RECIPE, run, [*given, *more])
    return run / "rm"


def _parts(folder: Path, name: str) -> list[list[dict[str, Any]]]:
    """The rows to train on, and those to measure with."""
    files = [folder / f"{name}_{part}.jsonl" for part in ("training", "test")]
    return [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files]


def scored(context: Context, task: Task) -> Scored:
    """Scores the held-out comparisons of a task with its reward models and with the baselines."""
    prompts = [row["prompt"] for row in task.test for _ in row["responses"]]
    texts = responses(task.test)
    keep = context.runs / NAME / f"{task.data}-{task.size}.json"
    scores = kept_json(keep, [*task.models, task.test], lambda: [score(model, prompts, texts) for model in task.models])
    baselines = {name: agreement(baseline(task.training, task.test), task.test) for name, baseline in BASELINES.items()}
    return Scored(task, [agreement(one, task.test) for one in scores], baselines)


def result(context: Context, found: Sequence[Scored]) -> Result:
    """Returns the finding from what was measured; the task that every seed has comes first in it."""
    intervals = [_intervals(one) for one in found]
    main = max(
        range(len(found)),
        key=lambda i: (found[i].task.data == found[0].task.data, len(found[i].model), found[i].task.size),
    )
    accuracy = intervals[main]["model"]
    return Result(
        finding=NAME,
        question=QUESTION,
        paper=PAPER,
        done=_done(found),
        holds=above(intervals[main]["gain"]),
        figure=accuracy.mean,
        ci_low=accuracy.ci_low,
        ci_high=accuracy.ci_high,
        unit=f"pair accuracy on held-out labels, {TITLES[found[main].task.data]}, {found[main].task.size} comparisons",
        seeds=list(context.seeds),
        verdict=_verdict(found, intervals, main),
        rows=[_row(one, own) for one, own in zip(found, intervals, strict=True)],
        plots=[_curve(found, intervals)],
        claims=[_claim(one.task, own["gain"]) for one, own in zip(found, intervals, strict=True)],
    )


def _intervals(found: Scored) -> dict[str, Interval]:
    """Pair accuracies over seeds and comparisons, and what the model has over the better baseline."""
    return over_seeds_and_prompts(_figures(found), len(found.model), len(found.task.test))


def _figures(found: Scored) -> Figures:
    def figures(seeds: np.ndarray, rows: np.ndarray) -> dict[str, float]:
        shares = {name: one.share(rows) for name, one in found.baselines.items()}
        model = float(np.mean([found.model[seed].share(rows) for seed in seeds]))
        return shares | {"model": model, "gain": model - max(shares.values())}

    return figures


def _claim(task: Task, gain: Interval) -> dict[str, Any]:
    claim = f"{TITLES[task.data]}, {task.size} comparisons: more accurate than the better of the two baselines"
    return {"claim": claim, "holds": above(gain), **gain._asdict()} | {"figure": gain.mean}


def _done(found: Sequence[Scored]) -> str:
    tests = {one.task.data: len(one.task.test) for one in found}
    measured = "; ".join(f"{WHAT[name]}, measured on {count} others" for name, count in tests.items())
    return (
        f"Reward models of one pass over comparisons that follow people's labels: {measured}. Baselines see the "
        "response alone and learn from the same comparisons: its length, and logistic regression on tf-idf of its "
        f"words. Intervals are over comparisons, and over seeds where there are several ({SHARED} comparisons)"
    )


def _verdict(found: Sequence[Scored], intervals: Sequence[Mapping[str, Interval]], main: int) -> str:
    task, own = found[main].task, intervals[main]
    others = [
        f"; {TITLES[one.task.data]}: {shown(mine['model'])}, {_against(mine['gain'])}"
        for one, mine in zip(found, intervals, strict=True)
        if one.task.data != task.data
    ]
    return (
        f"With {task.size} comparisons a reward model orders {shown(own['model'])} of the held-out pairs as people did "
        f"({TITLES[task.data]}; length {own[LENGTH].mean:.2f}, tf-idf {own[WORDS].mean:.2f}){''.join(others)}."
    )


def _against(gain: Interval) -> str:
    clear = above(gain)
    return "not clearly above the baselines" if clear is None else f"{'above' if clear else 'below'} the baselines"


def _row(found: Scored, own: Mapping[str, Interval]) -> dict[str, Any]:
    return {
        "labels": TITLES[found.task.data],
        "comparisons": found.task.size,
        "seeds": len(found.model),
        "pair accuracy": shown(own["model"]),
        "length": f"{own[LENGTH].mean:.2f}",
        "tf-idf": f"{own[WORDS].mean:.2f}",
        "minus the better baseline": shown(own["gain"]),
    }


def _curve(found: Sequence[Scored], intervals: Sequence[Mapping[str, Interval]]) -> dict[str, Any]:
    """Accuracy by size of data, on the labels that come first."""
    first = found[0].task.data
    pairs = [(one.task.size, own) for one, own in zip(found, intervals, strict=True) if one.task.data == first]
    lines = [
        {"name": label, "points": [[size, *(round(end, 4) for end in own[key])] for size, own in pairs]}
        for key, label in (("model", "reward model"), (WORDS, "tf-idf"), (LENGTH, "length"))
    ]
    return {
        "title": f"Pair accuracy on held-out labels, {TITLES[first]}",
        "x": "comparisons",
        "y": "pair accuracy",
        "lines": lines,
    }
