"""`lit-instruct rank agreement`: how far the labelers of a store agree, as JSON and as a page."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lit_instruct.commands.score import score
from lit_instruct.errors import UserError
from lit_instruct.evaluation.page import card, number, render
from lit_instruct.files import json_text, write_text
from lit_instruct.labeling import agreement
from lit_instruct.labeling.rankings import LabelerSplit, Ranked, held_out, rankings
from lit_instruct.labeling.store import Store

TEMPLATES = Path(agreement.__file__).parent


@dataclass
class AgreementOptions:
    """Writes agreement.json and agreement.html: agreement between labelers, with themselves, and of a reward model.

    Args:
        store: file of tasks and rankings.
        reward: a reward model to compare with each labeler: a stage folder such as runs/demo/rm, or any sequence
            classifier with one output; null compares none.
        labelers: labelers that are held out, who are compared apart.
        out: folder to write to; null takes that of the store.
    """

    store: str
    reward: str | None = None
    labelers: LabelerSplit = field(default_factory=LabelerSplit)
    out: str | None = None


def write_agreement(options: AgreementOptions) -> Path:
    """Writes both files and returns the page.

    Raises:
        UserError: there is no such store or reward model, no ranking, or the files cannot be written.
    """
    path = Path(options.store)
    out = path.parent if options.out is None else Path(options.out)
    if not out.is_dir():
        raise UserError(f"--out={out}: no such folder; make it first")
    with contextlib.closing(Store(path)) as store:
        found = rankings(store)
        if not found:
            raise UserError(f"--store={path}: it has no rankings yet; let labelers rank with `lit-instruct rank`")
        apart = held_out(store, [one.labeler for one in found], options.labelers.held_out)
        seed = store.meta["seed"]
    rewards = None if options.reward is None else _rewards(options.reward, found)
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "reward": options.reward}
    result |= agreement.figures(found, apart, rewards, seed)
    write_text(out / "agreement.json", json_text(result), "--out")
    page = render("agreement.html.jinja", folder=TEMPLATES, found=result, reward=options.reward, cards=_cards(result))
    write_text(out / "agreement.html", page, "--out")
    for one in _cards(result):
        print(f"{one['title']}: {one['value']} ({one['note']})")
    print(f"written to {out / 'agreement.json'} and {out / 'agreement.html'}")
    return out / "agreement.html"


def _rewards(source: str, found: Sequence[Ranked]) -> dict[int, list[float]]:
    tasks = {one.task: one for one in found}
    flat = [(one.prompt, text) for one in tasks.values() for text in one.texts]
    scores = iter(score(source, [prompt for prompt, _ in flat], [text for _, text in flat]))
    return {task: [next(scores) for _ in one.texts] for task, one in tasks.items()}


def _cards(found: dict[str, Any]) -> list[dict[str, str]]:
    between, reward = found["agreement"], found.get("reward_model")
    shown = {"between labelers": between["all"], "with themselves": found["self_agreement"]}
    if between["held_out"] is not None or any(one["held_out"] for one in found["labelers"].values()):
        shown |= {"training labelers": between["training"], "held-out labelers": between["held_out"]}
    if reward is not None:
        shown["reward model, training labelers" if reward["held_out"] else "reward model"] = reward["training"]
        if reward["held_out"]:
            shown["reward model, held-out labelers"] = reward["held_out"]
    cards = [card(title, *_words(title, one)) for title, one in shown.items()]
    alpha = found["alpha"]
    if alpha is not None:
        note = f"{number(alpha['ci_low'])} to {number(alpha['ci_high'])}, {alpha['tasks']} tasks"
        cards.append(card("Krippendorff's alpha", number(alpha["value"]), note))
    return cards


def _words(title: str, one: dict[str, Any] | None) -> tuple[str, str]:
    if one is None and title == "with themselves":
        return "n/a", "nobody ranked a task twice"
    if one is None:
        return "n/a", "they ranked no pair" if title.startswith(
            "reward model"
        ) else "no two of them ranked the same task"
    low, high = (number(100 * one[end], 1) for end in ("ci_low", "ci_high"))
    return f"{number(100 * one['share'], 1)} %", f"{low} to {high} %, {one['pairs']} pairs in {one['tasks']} tasks"
