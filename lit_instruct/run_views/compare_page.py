"""The comparison of runs as a page: curves over each other, figures and options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_instruct.evaluation import charts
from lit_instruct.evaluation.charts import Series, thinned
from lit_instruct.evaluation.page import render
from lit_instruct.evaluation.training_charts import CURVES, KINDS
from lit_instruct.machine import provenance
from lit_instruct.run_views.compare_text import figure_rows, measure_rows, shown
from lit_instruct.run_views.comparison import Logs
from lit_instruct.run_views.stage_log import StageLog

FOLDER = Path(__file__).parent
COLORS = (charts.SFT, charts.PPO, charts.BEST, charts.BASE)
POINTS = 300


def build_page(found: Mapping[str, Any], logs: Logs) -> str:
    """Returns the page as HTML.

    Args:
        found: of `compared_runs`.
        logs: of the same runs.
    """
    stages = [
        {
            "title": KINDS[stage][0],
            "states": one["states"],
            "wrong": one["wrong"],
            "figures": figure_rows(one),
            "measures": list(measure_rows(one.get("validation", {}))),
            "charts": curves_of(stage, logs[stage], list(found["runs"])),
            "one_reward": one.get("one_reward", True),
            "options": {option: list(map(shown, row.values())) for option, row in one["options"].items()},
        }
        for stage, one in reversed(found["stages"].items())
    ]
    evaluation = {system: list(measure_rows(measures)) for system, measures in found["evaluation"].items()}
    date = provenance()["date"]
    return render("compare.html.jinja", folder=FOLDER, found=found, stages=stages, evaluation=evaluation, date=date)


def curves_of(stage: str, logs: Mapping[str, StageLog], runs: list[str]) -> list[dict[str, Any]]:
    """Returns the curves of a stage over each other, a chart for each column of the logs.

    Args:
        stage: sft, rm or ppo.
        logs: of the runs that have it.
        runs: all runs, of which each has its colour in every chart.
    """
    curves = {name: thinned(log.curves, POINTS) for name, log in logs.items()}
    drawn = []
    for curve in CURVES[stage]:
        for column, words in ((curve.validation, "validation"), (curve.train, "training")):
            series = [
                Series(
                    charts.shortened(name), COLORS[at % len(COLORS)], *curves[name][column], dashed=at >= len(COLORS)
                )
                for at, name in enumerate(runs)
                if column in curves.get(name, {})
            ]
            key = re.sub(r"\W+", "-", f"{stage}-{column}")
            title = f"{curve.title}, {words}"
            if svg := charts.line_chart(key, f"{KINDS[stage][0]}: {title}", KINDS[stage][1], series):
                drawn.append({"title": title, "svg": svg})
    return drawn
