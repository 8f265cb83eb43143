"""Figures of the report on tasks: means and paired differences with 95 % intervals over questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from lit_instruct.evaluation.measures import bootstrap, paired_difference, rounded

if TYPE_CHECKING:
    from lit_instruct.evaluation.tasks.answers import Answers

LABELS = {
    "acc": "accuracy",
    "acc_norm": "accuracy, by length",
    "log_prob": "log-probability (nats)",
    "bits_per_byte": "bits per byte, less is better",
}
"""Key of a measure -> its name in tables."""
ALL = "all questions"
"""Name of all tasks with choices together."""


def task_pairs(
    systems: Sequence[str], reference: str | None, pairs: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Returns the systems (ours, theirs) whose answers are compared: each with the first and with the reference.

    Args:
        systems: all of them; the first is usually the base.
        reference: the one among them that KL is measured to, usually SFT; None if it is not among them.
        pairs: those of the report.
    """
    first, *others = systems
    found = [(name, first) for name in others]
    found += [(name, reference) for name in others if reference in others and name != reference and reference]
    return list(dict.fromkeys([*found, *pairs]))


def task_figures(
    answers: Mapping[str, Mapping[str, Answers]], pairs: Sequence[tuple[str, str]], seed: int
) -> dict[str, Any]:
    """Returns task -> its number of questions, the accuracy of guessing, and measure -> system or pair -> interval.

    Args:
        answers: system -> task -> its answers; every system has the same tasks and questions.
        pairs: systems (ours, theirs) whose difference is given as ours_minus_theirs, paired by question.
        seed: of the bootstrap.
    """
    tasks = {name: {system: own[name] for system, own in answers.items()} for name in next(iter(answers.values()))}
    figures = {name: _of_task(own, pairs, seed) for name, own in tasks.items()}
    with_choices = [name for name, found in figures.items() if found["chance"] is not None]
    if len(with_choices) > 1:
        together = {system: _together([own[name] for name in with_choices]) for system, own in answers.items()}
        figures[ALL] = _of_task(together, pairs, seed)
    return figures


def _together(parts: Sequence[Answers]) -> Answers:
    measures = [name for name in parts[0].measures if all(name in part.measures for part in parts)]
    count = sum(len(part.questions) for part in parts)
    chance = sum((part.chance or 0.0) * len(part.questions) for part in parts) / count
    return type(parts[0])(
        list(range(count)),
        {name: list(chain.from_iterable(part.measures[name] for part in parts)) for name in measures},
        chance,
    )


def _of_task(own: Mapping[str, Answers], pairs: Sequence[tuple[str, str]], seed: int) -> dict[str, Any]:
    first = next(iter(own.values()))
    measures: dict[str, Any] = {}
    for measure in first.measures:
        values = {system: answers.measures[measure] for system, answers in own.items()}
        measures[measure] = {system: rounded(bootstrap(one, seed)) for system, one in values.items()}
        for ours, theirs in pairs:
            difference = paired_difference(values[ours], values[theirs], seed)
            measures[measure][f"{ours}_minus_{theirs}"] = rounded(difference)
    return {"questions": len(first.questions), "chance": first.chance, "measures": measures}


def task_rows(answers: Mapping[str, Mapping[str, Answers]]) -> list[dict[str, Any]]:
    """Returns every question with each system's values: the rows of tasks.jsonl.

    Args:
        answers: system -> task -> its answers.
    """
    return [
        {"task": task, "question": question}
        | {system: {name: round(v[i], 6) for name, v in own[task].measures.items()} for system, own in answers.items()}
        for task, first in next(iter(answers.values())).items()
        for i, question in enumerate(first.questions)
    ]
