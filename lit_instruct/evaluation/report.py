"""report.html: one self-contained page from report.json and the stages' logs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lit_instruct.evaluation import charts
from lit_instruct.evaluation.charts import Curves, Series
from lit_instruct.evaluation.measures import LABELS, system_labels
from lit_instruct.evaluation.page import number, percent, render, signed

MOODS = {"up": "good", "down": "bad", "unclear": "plain"}
TEMPLATE = "report.html.jinja"


def build_page(run: Path, report: dict[str, Any]) -> str:
    """The page of a report as HTML.

    Args:
        run: the run's folder; the training curves come from its logs (<stage>/logs/metrics.csv), where they exist.
        report: what `evaluate` returns.
    """
    logs = {
        "sft": charts.read_metrics(run / "sft" / "logs" / "metrics.csv"),
        "rm": charts.read_metrics(run / "rm" / "logs" / "metrics.csv"),
        "ppo": charts.read_metrics(run / "ppo" / "logs" / "metrics.csv", x="ppo/iteration"),
    }
    best = f"best_of_{report['options']['best_of']}"
    return render(
        TEMPLATE,
        report=report,
        run=run.name,
        systems=system_labels(report["options"]["best_of"]),
        best=best,
        measures=LABELS,
        verdict=verdict(report),
        gained=gained(report),
        cost=cost(report),
        curves=training_charts(logs),
        frontier=charts.frontier_chart(report, logs["ppo"]),
        cases=charts.case_chart(report),
    )


def direction(interval: dict[str, float], zero: float = 0.0) -> str:
    """ "up" or "down" where the interval lies on one side of `zero`, "unclear" where it contains it."""
    if interval["ci_low"] > zero:
        return "up"
    return "down" if interval["ci_high"] < zero else "unclear"


def verdict(report: dict[str, Any]) -> str:
    """The result in a sentence or two, whichever way it went."""
    gain, win = report["labeler"]["ppo_minus_sft"], report["win_rate"]["ppo_vs_sft"]
    words = {
        "up": "scores higher than SFT with the labeler",
        "down": "scores lower than SFT with the labeler",
        "unclear": "cannot be told apart from SFT by the labeler",
    }
    interval = f"{signed(gain['mean'])}, 95 % interval {signed(gain['ci_low'])} to {signed(gain['ci_high'])}"
    kl = report["kl"]["ppo"]["mean"]
    second = {
        "up": "a labeler that no training used puts it higher",
        "down": "a labeler that no training used puts it lower",
        "unclear": "a labeler that no training used sees no clear difference",
    }[direction(report["second_labeler"]["ppo_minus_sft"])]
    return (
        f"PPO {words[direction(gain)]} ({interval}) and is preferred to it on {percent(win['mean'])} of "
        f"{report['prompts']} held-out prompts, at a distance of {number(kl, 1)} nats per response; {second}."
    )


def gained(report: dict[str, Any]) -> list[dict[str, str]]:
    """Cards: what PPO gained over SFT."""
    win = report["win_rate"]["ppo_vs_sft"]
    cards = [_difference(report, name, LABELS[name]) for name in ("labeler", "second_labeler", "reward")]
    preferred = {
        "title": "preferred to SFT",
        "value": percent(win["mean"]),
        "note": f"{percent(win['ci_low'])} to {percent(win['ci_high'])} of prompts, ties half",
        "mood": MOODS[direction(win, 0.5)],
    }
    return [cards[0], preferred, *cards[1:]]


def _difference(report: dict[str, Any], name: str, title: str) -> dict[str, str]:
    gain, before, after = (
        report[name]["ppo_minus_sft"],
        report[name]["sft"]["mean"],
        report[name]["ppo"]["mean"],
    )
    return {
        "title": title,
        "value": signed(gain["mean"]),
        "note": f"{signed(gain['ci_low'])} to {signed(gain['ci_high'])}; {number(before)} → {number(after)}",
        "mood": MOODS[direction(gain)],
    }


def cost(report: dict[str, Any]) -> list[dict[str, str]]:
    """Cards: what it cost in distance, length, variety and finished responses."""
    kl, length, eos = report["kl"]["ppo"], report["length"], report["eos_share"]
    distinct = report["distinct_2"]
    share = distinct["ppo_over_sft"]
    finished = eos["ppo_minus_sft"]
    return [
        {
            "title": "KL to SFT",
            "value": f"{number(kl['mean'], 1)} nats",
            "note": f"{number(kl['ci_low'], 1)} to {number(kl['ci_high'], 1)} per response",
            "mood": "plain",
        },
        {
            "title": "length",
            "value": f"{signed(length['ppo_minus_sft']['mean'], 1)} tokens",
            "note": f"{number(length['sft']['mean'], 1)} → {number(length['ppo']['mean'], 1)}",
            "mood": "plain",
        },
        {
            "title": "variety (distinct-2)",
            "value": percent(share),
            "note": f"of SFT; {number(distinct['sft']['mean'])} → {number(distinct['ppo']['mean'])}",
            "mood": "bad" if share is not None and share < 0.8 else "plain",
        },
        {
            "title": "ends with EOS",
            "value": percent(eos["ppo"]["mean"]),
            "note": f"SFT {percent(eos['sft']['mean'])}; {signed(100 * finished['mean'], 0)} points",
            "mood": MOODS[direction(finished)],
        },
    ]


def training_charts(logs: dict[str, Curves]) -> list[dict[str, Any]]:
    """Groups of charts, one per stage; what a stage did not log is left out."""
    step, iteration = "optimizer step", "PPO iteration"
    sft, reward, ppo = charts.SFT, charts.BEST, charts.PPO
    plan: list[tuple[str, str, str, Sequence[tuple[str, str, str, str]]]] = [
        (
            "SFT",
            "sft",
            step,
            [("loss", "train/loss", "val/loss", sft), ("token accuracy", "", "val/token_accuracy", sft)],
        ),
        (
            "Reward model",
            "rm",
            step,
            [
                ("loss", "train/loss", "val/loss", reward),
                ("pair accuracy", "train/pair_accuracy", "val/pair_accuracy", reward),
                ("calibration error", "", "val/calibration_error", reward),
            ],
        ),
        (
            "PPO",
            "ppo",
            iteration,
            [
                ("reward-model score", "ppo/reward", "val/reward", ppo),
                ("KL to SFT, nats per response", "ppo/kl", "val/kl", ppo),
                ("response length, tokens", "ppo/response_length", "val/response_length", ppo),
                ("EOS share", "ppo/eos_share", "val/eos_share", ppo),
                ("policy loss", "loss/policy", "", ppo),
                ("value loss", "loss/value", "", ppo),
                ("pretraining loss", "loss/pretraining", "", ppo),
                ("entropy", "ppo/entropy", "", ppo),
            ],
        ),
    ]
    groups = []
    for name, stage, x_label, rows in plan:
        drawn = [_training_chart(f"{stage}-{i}", name, logs[stage], x_label, *row) for i, row in enumerate(rows)]
        groups.append({"name": name, "charts": [chart for chart in drawn if chart is not None]})
    return groups


def _training_chart(
    key: str, stage: str, curves: Curves, x_label: str, title: str, train: str, validation: str, color: str
) -> dict[str, str | Markup] | None:
    series = [
        Series(label, tint, *curves[column], dashed=dashed)
        for label, column, tint, dashed in (
            ("training", train, color, False),
            ("validation", validation, charts.INK, True),
        )
        if column in curves
    ]
    svg = charts.line_chart(key, f"{stage}: {title}", x_label, series)
    return None if svg is None else {"title": title, "svg": svg}
