"""report.html: one self-contained page from the figures, the samples and the stages' logs."""

from __future__ import annotations

from typing import Any

from lit_instruct.evaluation import charts
from lit_instruct.evaluation.compared import Compared
from lit_instruct.evaluation.figures import Ranked
from lit_instruct.evaluation.measures import labels_of
from lit_instruct.evaluation.page import card, number, percent, render, script, signed
from lit_instruct.evaluation.seen import name_of_prompts
from lit_instruct.evaluation.tasks.figures import LABELS
from lit_instruct.evaluation.training_charts import training_charts
from lit_instruct.evaluation.verdict import (
    FEWEST_PROMPTS,
    LEAST_KL,
    LEAST_VARIETY,
    collapse,
    direction,
    direction_of,
    verdict,
)

MOODS = {"up": "good", "down": "bad", "unclear": "plain"}


def build_page(compared: Compared, report: dict[str, Any], ranked: Ranked) -> str:
    """Returns the page of a report as HTML.

    Args:
        compared: the models, for the training curves in <stage>/logs/metrics.csv; missing logs are left out.
        report: what `evaluate` returns.
        ranked: the samples that can be searched, and which of them are shown first.
    """
    ours, theirs = report["pairs"][-1]
    search, allowed = script("search.js")
    path = [name for name, (_, stage) in compared.stages.items() if stage.stage == "ppo" and "reward" in report]
    training = (
        charts.read_metrics(compared.stages[path[0]][0] / "logs" / "metrics.csv", "ppo/iteration") if path else {}
    )
    return render(
        "report.html.jinja",
        report=report,
        title=compared.folder.parent.name if compared.folder.name == "eval" else compared.folder.name,
        prompts=name_of_prompts(report["seen"]),
        systems=report["systems"],
        ours=ours,
        theirs=theirs,
        columns=columns(list(report["systems"]), ours, theirs),
        shown=[theirs, *(pair[0] for pair in report["pairs"])],
        measures={name: label for name, label in labels_of(report["judge"]).items() if name in report},
        task_systems=[name for name in report["systems"] if name in compared.sources],
        task_labels=LABELS,
        lengths=lengths(report),
        verdict=verdict(report),
        gained=gained(report, ours, theirs),
        cost=cost(report, ours, theirs),
        curves=training_charts(compared.stages),
        frontier=charts.frontier_chart(report, training if len(path) == 1 else {}),
        cases=charts.case_chart(report),
        ranked=ranked,
        search=search,
        allowed_script=allowed,
        fewest=FEWEST_PROMPTS,
        least_kl=LEAST_KL,
    )


def columns(systems: list[str], ours: str, theirs: str) -> list[str]:
    """Returns the columns of the table, those of the main pair first, as a narrow screen shows three; "" is their
    difference.

    Args:
        systems: all of them.
        ours: the main system.
        theirs: the one that it is compared with.
    """
    return [ours, "", theirs, *(name for name in reversed(systems) if name not in (ours, theirs))]


def lengths(report: dict[str, Any]) -> dict[str, str]:
    """Returns the correlations of the table on length, with their names; those with a reward only if there is one."""
    judge = f"{report['judge']}'s score"
    names = {
        "labeler": f"{judge} and length",
        "reward": "reward and length",
        "labeler_and_reward": f"{judge} and reward",
        "labeler_and_reward_given_length": f"{judge} and reward, given the length",
    }
    return {name: label for name, label in names.items() if name == "labeler" or "reward" in report}


def gained(report: dict[str, Any], ours: str, theirs: str) -> list[dict[str, str]]:
    """Returns the cards of what the main system gained; only what `verdict.finding` allows is green or red."""
    win = report["win_rate"][f"{ours}_vs_{theirs}"]
    note = f"{percent(win['ci_low'])} to {percent(win['ci_high'])} of prompts, ties half"
    found = direction_of(report, "labeler", ours, theirs)
    mood = MOODS[found] if found == direction(win, 0.5) else "plain"
    preferred = card(f"preferred to {report['systems'][theirs]}", percent(win["mean"]), note, mood)
    names = [
        name for name in ("labeler", "second_labeler", "reward") if f"{ours}_minus_{theirs}" in report.get(name, {})
    ]
    labeler, *others = (_difference(report, name, ours, theirs) for name in names)
    return [labeler, preferred, *others]


def _difference(report: dict[str, Any], name: str, ours: str, theirs: str) -> dict[str, str]:
    gain, before, after = report[name][f"{ours}_minus_{theirs}"], report[name][theirs], report[name][ours]
    note = f"{signed(gain['ci_low'])} to {signed(gain['ci_high'])}; {number(before['mean'])} → {number(after['mean'])}"
    return card(
        labels_of(report["judge"])[name], signed(gain["mean"]), note, MOODS[direction_of(report, name, ours, theirs)]
    )


def cost(report: dict[str, Any], ours: str, theirs: str) -> list[dict[str, str]]:
    """Returns the cards of what it cost in distance, length, variety and finished responses."""
    key, length, eos, distinct = f"{ours}_minus_{theirs}", report["length"], report["eos_share"], report["distinct_2"]
    share, finished = distinct[f"{ours}_over_{theirs}"], eos[key]
    them, clear = report["systems"][theirs], report["prompts"] >= FEWEST_PROMPTS
    few = (share is not None and share < LEAST_VARIETY) or bool(collapse(report, ours, theirs))
    return [
        *_distance(report, ours),
        card(
            "length",
            f"{signed(length[key]['mean'], 1)} tokens",
            f"{number(length[theirs]['mean'], 1)} → {number(length[ours]['mean'], 1)}",
        ),
        card(
            "variety (distinct-2)",
            percent(share),
            f"of {them}; {number(distinct[theirs]['mean'])} → {number(distinct[ours]['mean'])}",
            "bad" if few else "plain",
        ),
        card(
            "ends with EOS",
            percent(eos[ours]["mean"]),
            f"{them} {percent(eos[theirs]['mean'])}; {signed(100 * finished['mean'], 0)} points",
            MOODS[direction(finished)] if clear else "plain",
        ),
    ]


def _distance(report: dict[str, Any], ours: str) -> list[dict[str, str]]:
    kl = report.get("kl", {}).get(ours)
    if kl is None:
        return []
    note = f"{number(kl['ci_low'], 1)} to {number(kl['ci_high'], 1)} per response"
    if kl["mean"] < 0:
        return [card("KL to SFT", "0 nats", f"estimated as {number(kl['mean'], 2)}: noise, a KL is never negative")]
    return [card("KL to SFT", f"{number(kl['mean'], 1)} nats", note)]
