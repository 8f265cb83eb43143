"""What each step of prompt hygiene would remove, and why: counts, and the first prompts of each step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from data_modules.hygiene.facts import PromptFacts, user_text, whole_text
from data_modules.hygiene.personal_information import find_personal_information
from data_modules.hygiene.steps import OPTION_OF, HygieneOptions, is_few_shot
from data_modules.rows import PromptRow
from lit_instruct.prompting import prompt_text

SHOWN = 3
"""Prompts shown for each step."""
OFF: dict[str, Any] = {
    "unique_prefix": None,
    "max_per_user": None,
    "personal_information": "keep",
    "use_case_mix": None,
}


@dataclass
class Step:
    """One step of hygiene."""

    name: str
    option: str
    """Its option with the given value, such as "max_per_user=200"."""
    asked: bool
    """Whether the option switches the step on."""
    dropped: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)
    """{where, why, prompt} of the first removed prompts."""


def preview(facts: PromptFacts, rows: Iterable[PromptRow], seed: int) -> list[Step]:
    """Applies the steps in order to all rows, as to training prompts without a validation split.

    Args:
        facts: of all rows, with the options of the training.
        rows: the same rows in the same order; read up to the last example.
        seed: for resampling use cases.
    """
    asked, on, kept = facts.options, dict(OFF), np.ones(len(facts.split), dtype=bool)
    steps, examples = [], []
    for name, option in OPTION_OF.items():
        value = getattr(asked, option)
        step = Step(name, f"{option}={'null' if value is None else value}", asked=value != OFF[option])
        steps.append(step)
        if step.asked:
            on[option] = value
            facts.options = replace(asked, **on)
            left = facts.choose(None, 0.0, seed).train
            dropped = np.flatnonzero(kept & ~left).tolist()
            step.dropped, kept = len(dropped), left
            for number in dropped[:SHOWN]:
                first = facts.prefix.index(facts.prefix[number]) if option == "unique_prefix" else number
                examples.append((step, number, first))
    facts.options = asked
    seen = _take(rows, {number for _, *numbers in examples for number in numbers})
    for step, number, first in examples:
        row = seen[number]
        why = _why(step.name, row, seen[first], asked)
        step.examples.append({"where": row.where, "why": why, "prompt": prompt_text(row.prompt)})
    return steps


def _take(rows: Iterable[PromptRow], wanted: set[int]) -> dict[int, PromptRow]:
    """Returns the rows with these numbers; reads up to the last of them."""
    last = max(wanted, default=-1)
    return {number: row for number, row in enumerate(islice(rows, last + 1)) if number in wanted}


def _why(step: str, row: PromptRow, first: PromptRow, options: HygieneOptions) -> str:
    """Says why a step removes a row; `first` is the row with the same prefix that is kept."""
    if step == "shared prefix":
        alike = options.exempt_few_shot and is_few_shot(user_text(row.prompt))
        length = "all tokens" if alike else f"the first {options.unique_prefix} tokens"
        return f"{length} are those of {first.where}"
    if step == "over the limit of a user":
        return f"user {row.user} has {options.max_per_user} prompts before it"
    if step == "personal information":
        return f"holds {', '.join(sorted(find_personal_information(whole_text(row.prompt))))}"
    return f"use case {row.use_case or 'unknown'} is over its share"
