"""Which prompts of an evaluation its stages have trained on, by the hashes in their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_instruct.errors import UserError
from lit_instruct.evaluation.compared import Compared

if TYPE_CHECKING:
    from data_modules.rows import PromptRow


@dataclass
class Seen:
    """What is known about the prompts of an evaluation."""

    by: dict[str, list[bool]]
    """Stage -> whether each prompt is among its training rows."""
    unknown: list[str]
    """Models of which it is not known."""

    def stages_of(self, row: int) -> list[str]:
        """Returns the stages that trained on a prompt."""
        return [name for name, rows in self.by.items() if rows[row]]


def find_seen(rows: Sequence[PromptRow], compared: Compared) -> Seen:
    """Looks the prompts up in the records of all stages.

    Raises:
        UserError: a file of hashes is damaged.
    """
    from lit_instruct.handover import read_trained_prompts
    from lit_instruct.prompting.hashes import prompt_hash

    hashes = np.array([prompt_hash(row.prompt) for row in rows], dtype=np.uint64)
    seen = Seen({}, list(compared.elsewhere))
    for name, (folder, stage) in compared.stages.items():
        trained = read_trained_prompts(folder, stage)
        if trained is None:
            seen.unknown.append(name)
        else:
            seen.by[name] = np.isin(hashes, trained).tolist()
    return seen


def without_seen(rows: list[PromptRow], seen: Seen, leave_out: bool) -> tuple[list[PromptRow], dict[str, Any]]:
    """Returns the rows to use, and what the report says about them.

    Args:
        rows: all prompts.
        seen: of the same rows.
        leave_out: whether prompts that a stage trained on are left out.

    Raises:
        UserError: no prompt would be left.
    """
    trained_on = [bool(seen.stages_of(i)) for i in range(len(rows))]
    counts = {name: sum(found) for name, found in seen.by.items() if any(found)}
    used = [row for row, known in zip(rows, trained_on, strict=True) if not (known and leave_out)]
    if not used:
        which = " or ".join(f"{name}'s" for name in counts)
        raise UserError(
            f"--prompts: all {len(rows)} prompts are in {which} training data; give others, or compare on them all the "
            "same with --seen=keep"
        )
    facts = {"given": len(rows), "in_training_data": counts, "left_out": leave_out, "unknown": seen.unknown}
    return used, facts | {"held_out": not seen.unknown and (leave_out or not any(trained_on))}


def told_of_seen(facts: dict[str, Any]) -> list[str]:
    """Returns warnings about prompts that a stage trained on, such as "12 of 100 prompts were in sft's training data".

    Args:
        facts: of `without_seen`.
    """
    said = [
        f"{count} of {facts['given']} prompts were in {name}'s training data"
        + (" and are left out" if facts["left_out"] else ": these are not held out")
        for name, count in facts["in_training_data"].items()
    ]
    if facts["unknown"]:
        names = ", ".join(facts["unknown"])
        said.append(
            f"it is not known which prompts {names} trained on (made elsewhere or by an earlier version), so these "
            "prompts may not be held out"
        )
    return said


def name_of_prompts(facts: dict[str, Any]) -> str:
    """Returns "held-out prompts" if no stage has trained on them, else "prompts"."""
    return "held-out prompts" if facts["held_out"] else "prompts"
