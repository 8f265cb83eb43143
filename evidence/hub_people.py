"""Real people instead of simulated ones, for `--source=hub`: reward models on comparisons of TL;DR summaries.

As in the paper (section 4.1, appendix E.2), people are dealt into five groups; reward models learn from four of them
and are tested on comparisons of all five.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evidence import ROOT, hub
from evidence.agreement import agreed
from evidence.cached import kept_json
from evidence.context import Context
from evidence.held_out_people import HeldOut
from evidence.models import SMALL
from evidence.reward_scores import reward_scores
from evidence.samples import rows_of, write_rows
from evidence.stages import run_stage
from lit_instruct.errors import UserError

RM = ROOT / "recipes/evidence/own_samples/rm.yaml"
GROUPS = 5
READ = 20_000
"""Comparisons that are read at most."""

Rows = list[dict[str, Any]]


class Sizes(NamedTuple):
    """Comparisons of each group."""

    train: int = 150
    test: int = 80
    more: tuple[str, ...] = ()
    """Further options of the reward models."""


QUICK = Sizes(4, 3, SMALL)


def trained(context: Context, sft: Path, sizes: Sizes) -> HeldOut:
    """Trains the reward models that are missing and returns their accuracies on held-out comparisons.

    Args:
        context: of the finding.
        sft: stage folder of the model that they start from.
        sizes: how much.

    Raises:
        UserError: the hub cannot be reached, or a group compared too little.
    """
    folder = context.runs / "preferred/tldr"
    train, test = _parts(folder, sizes)
    rewards = []
    for seed in context.seeds:
        for left_out in range(GROUPS):
            learnt = [row for group in range(GROUPS) if group != left_out for row in train[group]]
            file = write_rows(folder / f"without-{left_out}.jsonl", learnt)
            run = folder / f"rm-without-{left_out}-{seed}"
            given = [f"--model.base={sft}", f"--data.path={file}", f"--seed_everything={seed}"]
            run_stage("rm", RM, run, [*given, *sizes.more])
            rewards.append(run / "rm")
    rows = [row for group in test for row in group]
    asked = [row["prompt"] for row in rows for _ in row["responses"]]
    said = [text for row in rows for text in row["responses"]]
    scores = kept_json(
        folder / "scores.json", [rows, *rewards], lambda: reward_scores(sft, rewards, asked, said).tolist()
    )
    return accuracies(scores, rows, len(context.seeds))


def accuracies(scores: Sequence[Sequence[float]], rows: Rows, seeds: int) -> HeldOut:
    """Returns how often reward models order pairs as the people of each group did.

    Args:
        scores: for each seed and in it for each group that is left out, the rewards of all responses.
        rows: comparisons, those of a group together, equally many of each.
        seeds: how many.
    """
    people = [[-rank for rank in row["ranks"]] for row in rows]
    table = []
    for own in scores:
        left = iter(own)
        table.append(agreed([[next(left) for _ in row["responses"]] for row in rows], people))
    return HeldOut(np.array(table).reshape(seeds, GROUPS, GROUPS, len(rows) // GROUPS), None)


def dealt(rows: Iterable[dict[str, Any]]) -> list[Rows]:
    """Returns the comparisons of each group: people in the order of how much they compared, dealt in turns.

    Args:
        rows: comparisons with their `labeler`.
    """
    kept = [row for row in rows if row.get("labeler")]
    people = [name for name, _ in Counter(row["labeler"] for row in kept).most_common()]
    group = {name: number % GROUPS for number, name in enumerate(people)}
    return [[row for row in kept if group[row["labeler"]] == number] for number in range(GROUPS)]


def split(group: Rows, sizes: Sizes, tested: set[str]) -> tuple[Rows, Rows]:
    """Returns comparisons of a group to learn from, and others to test on, about posts that nobody learns from.

    Args:
        group: its comparisons.
        sizes: how many.
        tested: posts of the test, of all groups.

    Raises:
        UserError: there are too few.
    """
    train = [row for row in group if row["prompt"] not in tested][: sizes.train]
    test = [row for row in group if row["prompt"] in tested][: sizes.test]
    if len(train) < sizes.train or len(test) < sizes.test:
        raise UserError(
            f"{hub.TLDR}: a group of people has {len(train)} and {len(test)} comparisons to learn from and to test on, "
            f"not {sizes.train} and {sizes.test}"
        )
    return train, test


def _parts(folder: Path, sizes: Sizes) -> tuple[list[Rows], list[Rows]]:
    file = folder / "comparisons.jsonl"
    if not file.is_file():
        fields = ("prompt", "responses", "ranks")
        found = islice(hub.short_rows(hub.TLDR), READ)
        rows = [{name: getattr(row, name) for name in fields} | {"labeler": row.extra.get("labeler")} for row in found]
        write_rows(file, rows)
    groups = dealt(rows_of(file))
    posts = sorted({row["prompt"] for group in groups for row in group})
    tested = set(posts[::3])  # a third of the posts
    parts = [split(group, sizes, tested) for group in groups]
    return [train for train, _ in parts], [test for _, test in parts]
