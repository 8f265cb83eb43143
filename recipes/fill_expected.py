"""Writes what each stage of a recipe must show, from what its runs showed: recipes/<name>/expected.yaml and README.md.

    python recipes/fill_expected.py [demo ...]

Without a name it fills every recipe that has results/seed-*.json. `RULE` says how a range comes from them; floors and
limits of each figure are in `FIGURES`.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from lit_instruct.commands.expected import FILE, STAGES, between, name_of, read_expected, value_at

RECIPES = Path(__file__).parent
RULE = (
    "A range is the mean over the seeds, plus and minus four standard deviations (of a sample, n - 1) or the figure's "
    "floor, whichever is more, so that runs on other machines lie inside too. It is rounded outwards to two decimals "
    "and ends at the figure's limits."
)
DEVIATIONS = 4
MARKS = re.compile(r"(<!-- expected -->)\n.*?(<!-- end expected -->)", re.DOTALL)


class Figure(NamedTuple):
    """A figure that a stage must show.

    Args:
        stage: sft, rm, ppo or eval.
        name: the metric in stage.json, for eval the dotted path in report.json.
        place: dotted path in a report.
        floor: least half width of its range.
        low: it cannot be lower, or the recipe promises that it is not.
        high: it cannot be higher.
    """

    stage: str
    name: str
    place: str
    floor: float
    low: float = -math.inf
    high: float = math.inf


FIGURES = (
    Figure("sft", "val/loss", "metrics.sft.val/loss", 0.1, 0),
    Figure("rm", "val/pair_accuracy", "reward_model.pair_accuracy", 0.06, 0.5, 1),  # below 0.5 it is worse than chance
    Figure("ppo", "val/reward", "metrics.ppo.val/reward", 0.4),
    Figure("ppo", "val/kl", "metrics.ppo.val/kl", 2, 0),
    Figure("eval", "labeler.sft.mean", "labeler.sft.mean", 0.15),
    Figure("eval", "labeler.ppo_minus_sft.mean", "labeler.ppo_minus_sft.mean", 0.15, 0),  # PPO must not lose
    Figure("eval", "kl.ppo.mean", "kl.ppo.mean", 1.5, 0),
    Figure("eval", "distinct_2.ppo_over_sft", "distinct_2.ppo_over_sft", 0.1, 0),
)


class Spread(NamedTuple):
    """A figure over the seeds, and the range that follows."""

    figure: Figure
    measured: list[float]
    low: float
    high: float


def spread_of(figure: Figure, measured: list[float]) -> Spread:
    """Returns the range of a figure by `RULE`.

    Args:
        figure: with its floor and limits.
        measured: its values, one per seed.
    """
    mean, deviation = statistics.mean(measured), statistics.stdev(measured) if len(measured) > 1 else 0.0
    half = max(DEVIATIONS * deviation, figure.floor)
    low, high = math.floor(round((mean - half) * 100, 6)) / 100, math.ceil(round((mean + half) * 100, 6)) / 100
    return Spread(figure, measured, max(low, figure.low), min(high, figure.high))


def spreads(recipe: Path) -> list[Spread]:
    """Returns the figures that all reports of a recipe have."""
    reports = list(reports_of(recipe).values())
    found = [(figure, [value_at(report, figure.place) for report in reports]) for figure in FIGURES]
    return [
        spread_of(figure, [value for value in values if value is not None])
        for figure, values in found
        if None not in values
    ]


def reports_of(recipe: Path) -> dict[str, dict[str, Any]]:
    """Returns the reports of a recipe's seeds by the names of their files."""
    paths = sorted((recipe / "results").glob("seed-*.json"))
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def expected_text(recipe: Path) -> str:
    """Returns the content of a recipe's expected.yaml."""
    lines = [
        "# What each stage of this recipe must show; `lit-instruct check` compares a run with it.",
        f"# Written by `python recipes/fill_expected.py` from results/: {', '.join(reports_of(recipe))}.",
        *textwrap.wrap(RULE, 118, initial_indent="# ", subsequent_indent="# "),
    ]
    stage = ""
    for figure, measured, low, high in spreads(recipe):
        if figure.stage != stage:
            stage = figure.stage
            lines.append(f"{stage}:")
        limits = [
            f"at {word} {limit:g}"
            for word, limit in (("least", figure.low), ("most", figure.high))
            if math.isfinite(limit)
        ]
        notes = ", ".join([f"mean {statistics.mean(measured):.3f}", *_deviation(measured), f"floor {figure.floor:g}"])
        lines.append(f"  {figure.name}: [{low:g}, {high:g}]  # {', '.join([notes, *limits])}")
    return "\n".join(lines) + "\n"


def readme_filled(text: str, recipe: Path) -> str:
    """Returns a recipe's README with the table of expected figures between its marks."""
    measured = {(spread.figure.stage, spread.figure.name): spread.measured for spread in spreads(recipe)}
    lines = ["| stage | figure | expected | measured |", "|---|---|---|---|"]
    for stage, figures in read_expected(recipe).items():
        for name, within in figures.items():
            shown = ", ".join(f"{value:.3f}" for value in measured[stage, name])
            lines.append(f"| {stage} | {name_of(stage, name)} | {between(within)} | {shown} |")
    reports = list(reports_of(recipe).values())
    minutes = [sum(report["seconds"][stage] for stage in STAGES) / 60 for report in reports]
    told = (
        f"Measured are {len(reports)} runs ({', '.join(name.removesuffix('.json') for name in reports_of(recipe))}), "
        f"of {min(minutes):.1f} to {max(minutes):.1f} minutes each, on {_machines(reports)}."
    )
    table = "\n".join([*lines, "", told])
    return MARKS.sub(lambda found: f"{found[1]}\n{table}\n{found[2]}", text)


def _machines(reports: list[dict[str, Any]]) -> str:
    names = [
        f"{machine['cpu_cores']} cores ({machine['architecture']})"
        if machine["accelerator"] is None
        else str(machine["accelerator"])
        for machine in (report["machine"] for report in reports)
    ]
    return ", ".join(dict.fromkeys(names))


def _deviation(measured: list[float]) -> list[str]:
    return [f"standard deviation {statistics.stdev(measured):.3f}"] if len(measured) > 1 else []


def main(names: list[str]) -> None:
    """Fills the recipes of these names, or all that have results."""
    found = {path.parents[1].name: path.parents[1] for path in sorted(RECIPES.glob("*/results/seed-*.json"))}
    if unknown := [name for name in names if name not in found]:
        sys.exit(f"{unknown[0]}: no recipes/{unknown[0]}/results/seed-*.json; there are those of {', '.join(found)}")
    for name in names or found:
        recipe, readme = found[name], found[name] / "README.md"
        (recipe / FILE).write_text(expected_text(recipe), encoding="utf-8")
        readme.write_text(readme_filled(readme.read_text(encoding="utf-8"), recipe), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
