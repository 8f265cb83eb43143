"""What each step of prompt hygiene would remove, and why: counts, and the first prompts of each step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from data_modules.hygiene.facts import PromptFacts, user_text, whole_text
from data_modules.hygiene.personal_information import find_personal_information
from data_modules.hygiene.steps import OPTION_OF, HygieneOptions, is_few_shot
from data_modules.rows import PromptRow
from lit_instruct.prompting import Prompter, prompt_text

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
    rows: list[int] = field(default_factory=list, repr=False)
    """Row indices of the examples."""
    first: list[int] = field(default_factory=list, repr=False)
    """For each example of a shared prefix, the index of the row that is kept."""


class HygienePreview:
    """Applies the steps to all rows as to training prompts (no validation split).

    Args:
        options: as for the training.
        prompter: owner of the tokenizer.
        seed: for resampling use cases.
    """

    def __init__(self, options: HygieneOptions, prompter: Prompter, seed: int = 0) -> None:
        self.options, self.seed = options, seed
        self.facts = PromptFacts(options, prompter)

    def add(self, rows: Sequence[PromptRow]) -> None:
        """Records the facts of more rows."""
        self.facts.add(rows)

    def steps(self) -> list[Step]:
        """Returns every step with what it removes; each sees what the earlier ones kept."""
        asked = self.options
        found, on = [], dict(OFF)
        kept = np.ones(len(self.facts.split), dtype=bool)
        for name, option in OPTION_OF.items():
            value = getattr(asked, option)
            step = Step(name, f"{option}={'null' if value is None else value}", asked=value != OFF[option])
            found.append(step)
            if not step.asked:
                continue
            on[option] = value
            self.facts.options = replace(asked, **on)
            left = self.facts.choose(None, 0.0, self.seed).train
            dropped = np.flatnonzero(kept & ~left)
            step.dropped, step.rows, kept = len(dropped), dropped[:SHOWN].tolist(), left
            if option == "unique_prefix":
                step.first = [self.facts.prefix.index(self.facts.prefix[row]) for row in step.rows]
        self.facts.options = asked
        return found

    def explain(self, steps: list[Step], rows: Iterable[PromptRow]) -> None:
        """Fills in the examples of each step.

        Args:
            steps: returned by `steps`.
            rows: the same rows again, in the same order; read up to the last example.
        """
        wanted = {number for step in steps for number in (*step.rows, *step.first)}
        seen: dict[int, PromptRow] = {}
        for number, row in enumerate(rows):
            if len(seen) == len(wanted):
                break
            if number in wanted:
                seen[number] = row
        for step in steps:
            for place, number in enumerate(step.rows):
                first = seen[step.first[place]] if step.first else None
                why = _why(step.name, seen[number], first, self.options)
                text = prompt_text(seen[number].prompt)
                step.examples.append({"where": seen[number].where, "why": why, "prompt": text})


def _why(step: str, row: PromptRow, first: PromptRow | None, options: HygieneOptions) -> str:
    if first is not None:
        alike = options.exempt_few_shot and is_few_shot(user_text(row.prompt))
        length = "all tokens" if alike else f"the first {options.unique_prefix} tokens"
        return f"{length} are those of {first.where}"
    if step == "over the limit of a user":
        return f"user {row.user} has {options.max_per_user} prompts before it"
    if step == "personal information":
        return f"holds {', '.join(sorted(find_personal_information(whole_text(row.prompt))))}"
    return f"use case {row.use_case or 'unknown'} is over its share"
