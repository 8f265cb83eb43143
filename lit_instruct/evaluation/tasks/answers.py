"""What a model made of a task, one value per question, from lm_eval's logged samples."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch


class Answers(NamedTuple):
    """What one model made of one task."""

    questions: list[int]
    """Numbers of the questions in the task, from 0."""
    measures: dict[str, list[float]]
    """Measure -> one value per question. With choices, log_prob is the log-probability of the right one among them:
    ``log softmax(log p(choice | question))``, in nats."""
    chance: float | None
    """Mean accuracy of guessing; None without choices."""


def answers_of(task: Any, samples: list[dict[str, Any]]) -> Answers:
    """Returns one value per question and measure.

    Args:
        task: of lm_eval.
        samples: what lm_eval logged on it.
    """
    measures: dict[str, list[float]] = {}
    for sample in samples:
        for name, value in _measured(task, sample).items():
            known = name if sample["filter"] == "none" else f"{name} ({sample['filter']})"
            measures.setdefault(known, []).append(value)
    first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    sizes = [len(choices) for sample in first if (choices := choices_of(task, sample["doc"])) is not None]
    chance = sum(1 / size for size in sizes) / len(sizes) if sizes else None
    return Answers([int(sample["doc_id"]) for sample in first], measures, chance)


def gold_of(task: Any, doc: Any) -> Any:
    """Returns the right answer to a question: its number among the choices (or its text, or several), or a text.

    Args:
        task: of lm_eval.
        doc: the question, as the task has it.
    """
    gold = task.doc_to_text(doc) if getattr(task, "multiple_input", 0) else task.doc_to_target(doc)
    return int(gold) if isinstance(gold, bool) else gold


def choices_of(task: Any, doc: Any) -> list[str] | None:
    """Returns the choices of a question; None for a task without choices.

    Args:
        task: of lm_eval.
        doc: the question, as the task has it.
    """
    return task.doc_to_choice(doc) if task.OUTPUT_TYPE == "multiple_choice" else None


def _measured(task: Any, sample: dict[str, Any]) -> dict[str, float]:
    kind = task.OUTPUT_TYPE
    if kind == "loglikelihood_rolling":
        nats, size = -sample["filtered_resps"][0], len(str(sample["target"]).encode())
        return {"bits_per_byte": nats / math.log(2) / size}
    values = {name: sample[name] for name in sample["metrics"]}
    found = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    if kind == "loglikelihood":
        return {"log_prob": float(sample["filtered_resps"][0][0])} | {k: v for k, v in found.items() if k == "acc"}
    if kind == "multiple_choice" and task.get_config("process_results") is None:
        found["log_prob"] = _log_prob(task, sample)
    return found


def _log_prob(task: Any, sample: dict[str, Any]) -> float:
    """Log-probability of the right choice (of several: of their sum) among all choices."""
    choices, gold = choices_of(task, sample["doc"]) or [], gold_of(task, sample["doc"])
    scores = torch.tensor([pair[0] for pair in sample["filtered_resps"][: len(choices)]], dtype=torch.float64)
    right = [i if isinstance(i, int) else choices.index(i) for i in (gold if isinstance(gold, list) else [gold])]
    return float(torch.logsumexp(scores[right], 0) - torch.logsumexp(scores, 0))
