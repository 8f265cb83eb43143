"""report.html: one self-contained page from report.json and the stages' logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from lit_instruct.evaluation import charts
from lit_instruct.evaluation.charts import Curves, Series
from lit_instruct.evaluation.measures import LABELS, system_labels
from lit_instruct.evaluation.page import card, number, percent, render, signed

MOODS = {"up": "good", "down": "bad", "unclear": "plain"}


class Curve(NamedTuple):
    """A chart of training: its title and the columns of metrics.csv; an empty name draws no line."""

    title: str
    train: str
    validation: str = ""


CURVES = {
    "sft": [Curve("loss", "train/loss", "val/loss"), Curve("token accuracy", "", "val/token_accuracy")],
    "rm": [
        Curve("loss", "train/loss", "val/loss"),
        Curve("pair accuracy", "train/pair_accuracy", "val/pair_accuracy"),
        Curve("calibration error", "", "val/calibration_error"),
    ],
    "ppo": [
        Curve("reward-model score", "ppo/reward", "val/reward"),
        Curve("KL to SFT, nats per response", "ppo/kl", "val/kl"),
        Curve("response length, tokens", "ppo/response_length", "val/response_length"),
        Curve("EOS share", "ppo/eos_share", "val/eos_share"),
        Curve("policy loss", "loss/policy"),
        Curve("value loss", "loss/value"),
        Curve("pretraining loss", "loss/pretraining"),
        Curve("entropy", "ppo/entropy"),
    ],
}


def build_page(run: Path, report: dict[str, Any]) -> str:
    """Returns the page of a report as HTML.

    Args:
        run: the run's folder, for the training curves in <stage>/logs/metrics.csv; missing logs are left out.
        report: what `evaluate` returns.
    """
    logs = {
        "sft": charts.read_metrics(run / "sft" / "logs" / "metrics.csv"),
        "rm": charts.read_metrics(run / "rm" / "logs" / "metrics.csv"),
        "ppo": charts.read_metrics(run / "ppo" / "logs" / "metrics.csv", x="ppo/iteration"),
    }
    best = f"best_of_{report['options']['best_of']}"
    return render(
        "report.html.jinja",
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
    """Returns "up" or "down" if the interval lies on one side of `zero`, "unclear" if it contains it."""
    if interval["ci_low"] > zero:
        return "up"
    return "down" if interval["ci_high"] < zero else "unclear"


def verdict(report: dict[str, Any]) -> str:
    """Returns the result as a sentence, whichever way it went."""
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
    """Returns the cards of what PPO gained over SFT."""
    win = report["win_rate"]["ppo_vs_sft"]
    note = f"{percent(win['ci_low'])} to {percent(win['ci_high'])} of prompts, ties half"
    preferred = card("preferred to SFT", percent(win["mean"]), note, MOODS[direction(win, 0.5)])
    labeler, *others = (_difference(report[name], LABELS[name]) for name in ("labeler", "second_labeler", "reward"))
    return [labeler, preferred, *others]


def _difference(measure: dict[str, Any], title: str) -> dict[str, str]:
    gain, before, after = measure["ppo_minus_sft"], measure["sft"]["mean"], measure["ppo"]["mean"]
    note = f"{signed(gain['ci_low'])} to {signed(gain['ci_high'])}; {number(before)} → {number(after)}"
    return card(title, signed(gain["mean"]), note, MOODS[direction(gain)])


def cost(report: dict[str, Any]) -> list[dict[str, str]]:
    """Returns the cards of what it cost in distance, length, variety and finished responses."""
    kl, length, eos, distinct = report["kl"]["ppo"], report["length"], report["eos_share"], report["distinct_2"]
    share, finished = distinct["ppo_over_sft"], eos["ppo_minus_sft"]
    return [
        card(
            "KL to SFT",
            f"{number(kl['mean'], 1)} nats",
            f"{number(kl['ci_low'], 1)} to {number(kl['ci_high'], 1)} per response",
        ),
        card(
            "length",
            f"{signed(length['ppo_minus_sft']['mean'], 1)} tokens",
            f"{number(length['sft']['mean'], 1)} → {number(length['ppo']['mean'], 1)}",
        ),
        card(
            "variety (distinct-2)",
            percent(share),
            f"of SFT; {number(distinct['sft']['mean'])} → {number(distinct['ppo']['mean'])}",
            "bad" if share is not None and share < 0.8 else "plain",
        ),
        card(
            "ends with EOS",
            percent(eos["ppo"]["mean"]),
            f"SFT {percent(eos['sft']['mean'])}; {signed(100 * finished['mean'], 0)} points",
            MOODS[direction(finished)],
        ),
    ]


def training_charts(logs: dict[str, Curves]) -> list[dict[str, Any]]:
    """Returns the groups of charts, one per stage, without those of columns that the stage did not log."""
    groups = []
    for stage, name, x_label, color in (
        ("sft", "SFT", "optimizer step", charts.SFT),
        ("rm", "Reward model", "optimizer step", charts.BEST),
        ("ppo", "PPO", "PPO iteration", charts.PPO),
    ):
        drawn = []
        for i, curve in enumerate(CURVES[stage]):
            lines = (("training", curve.train, color, False), ("validation", curve.validation, charts.INK, True))
            series = [
                Series(label, tint, *logs[stage][column], dashed=dashed)
                for label, column, tint, dashed in lines
                if column in logs[stage]
            ]
            if svg := charts.line_chart(f"{stage}-{i}", f"{name}: {curve.title}", x_label, series):
                drawn.append({"title": curve.title, "svg": svg})
        groups.append({"name": name, "charts": drawn})
    return groups
