"""Fresh prompts: each is used in one round alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from data_modules.rows import PromptRow, read_rows
from lit_instruct.errors import UserError
from lit_instruct.handover import read_stage, read_trained_prompts
from lit_instruct.iterating.options import FreshPrompts
from lit_instruct.prompting.hashes import prompt_hash

HELD_OUT = "held_out"
"""Field of a row: whether no reward model learns from its comparison."""


def fresh_prompts(prompts: FreshPrompts, seed: int, sft: Path, rounds: int) -> list[list[dict[str, Any]]]:
    """Returns the rows {prompt, ...} of the prompts of each round.

    The order of the file's distinct prompts follows from the seed; a round takes the next ones. Whether a prompt is
    held out depends on its place in that order alone, so that one round of n m prompts holds out the same ones as n
    rounds of m.

    Args:
        prompts: the file, and how many each round takes.
        seed: of the order.
        sft: stage folder of the SFT model, whose own prompts are left out.
        rounds: number of rounds.

    Raises:
        UserError: there are too few prompts, or they cannot be read.
    """
    stage = read_stage(sft)
    trained = read_trained_prompts(sft, stage) if stage is not None else None
    known = set() if trained is None else {int(one) for one in trained}
    distinct: dict[int, PromptRow] = {}
    for row in read_rows(prompts.path, PromptRow, fields=prompts.fields):
        if (key := prompt_hash(row.prompt)) not in known:
            distinct.setdefault(key, row)
    rows = list(distinct.values())
    random.Random(seed).shuffle(rows)
    if len(rows) < rounds * prompts.per_round:
        raise UserError(
            f"--prompts.path={prompts.path}: no fresh prompts are left for round {len(rows) // prompts.per_round}: it "
            f"has {len(rows)} that the SFT model was not trained on, and {rounds} rounds of {prompts.per_round} need "
            f"{rounds * prompts.per_round}; lower --rounds, or begin another run with more prompts or a lower "
            "--prompts.per_round"
        )
    return [
        [_record(rows[i], _is_held_out(i, prompts.held_out)) for i in range(start, start + prompts.per_round)]
        for start in range(0, rounds * prompts.per_round, prompts.per_round)
    ]


def _is_held_out(place: int, share: float) -> bool:
    return int((place + 1) * share) > int(place * share)


def _record(row: PromptRow, held_out: bool) -> dict[str, Any]:
    return {**row.columns(), "prompt": row.prompt, HELD_OUT: held_out}
