"""`lit-instruct rm validate`: measures a reward model on held-out comparisons, as validation.{json,html}."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_modules.rows import RankedComparison
from lit_instruct.evaluation import reward_charts as charts
from lit_instruct.evaluation.length import LIKE
from lit_instruct.evaluation.measures import rounded
from lit_instruct.evaluation.page import card, number, percent, render, signed
from lit_instruct.evaluation.reward_measures import (
    Pairs,
    calibration_error,
    length_relation,
    of_like_length,
    pair_accuracy,
    ranked_pairs,
    reliability,
)
from lit_instruct.files import json_text, replacing_files
from lit_instruct.machine import provenance
from lit_instruct.terminal import printable

GROUPS = {
    "by_k": "K",
    "by_rank_distance": "rank distance",
    "by_use_case": "use case",
    "by_labeler": "labeler",
    "by_subset": "subset",
}
SHOWN_GROUPS = 24
"""Most use cases, labelers or subsets in page and table; the JSON has them all."""


class Demonstrations(NamedTuple):
    """Rewards of the demonstrations without the bias, and the bias that should make their mean 0."""

    rewards: list[float]
    bias: float


def validation_report(
    rows: Sequence[RankedComparison],
    rewards: Sequence[Sequence[float]],
    lengths: Sequence[Sequence[int]],
    demonstrations: Demonstrations | None,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns all figures of a reward model on held-out comparisons, for JSON.

    Pair accuracies are {value, ci_low, ci_high, pairs, rows} with 95 % bootstrap intervals over rows. Use case,
    labeler and subset are fields of the rows; rows without them are left out of those groups.

    Args:
        rows: ranked comparisons, at least one pair among them.
        rewards: of each row's responses, without the bias.
        lengths: tokens of each row's responses, the EOS included.
        demonstrations: their rewards, if any.
        seed: of the bootstrap.
    """
    ranks = [row.ranks for row in rows]
    pairs = ranked_pairs(rewards, ranks)
    everything = np.ones(len(pairs.row), dtype=bool)
    accuracy = pair_accuracy(pairs, everything, seed)
    alike = pair_accuracy(pairs, of_like_length(lengths, pairs), seed)
    return {
        "rows": len(rows),
        "responses": sum(len(row.responses) for row in rows),
        "pairs": len(pairs.row),
        "pair_accuracy": rounded(accuracy) if accuracy else None,
        **_groups(rows, pairs, seed),
        "calibration": {
            "error": round(calibration_error(pairs.margin), 6),
            "bins": [rounded(one) for one in reliability(pairs.margin)],
        },
        "length": rounded(length_relation(rewards, lengths, ranks, pairs)),
        "pair_accuracy_at_like_length": rounded(alike) if alike else None,
        "demonstrations": _demonstrations(demonstrations),
    }


def write_report(
    folder: Path,
    report: dict[str, Any],
    origin: dict[str, Any],
    rewards: Sequence[Sequence[float]],
    lengths: Sequence[Sequence[int]],
) -> None:
    """Writes validation.json and validation.html and prints a short table with their paths.

    Args:
        folder: of the reward stage, such as runs/demo/rm.
        report: of `validation_report`.
        origin: base, checkpoint, data and loss.
        rewards: of each row's responses, the bias included.
        lengths: tokens of the same responses.

    Raises:
        UserError: they cannot be written.
    """
    whole = origin | report | provenance()
    page = build_page(folder.parent.name, whole, rewards, lengths)
    with replacing_files(folder) as scratch:
        (scratch / "validation.html").write_text(page, encoding="utf-8", errors="replace")
        (scratch / "validation.json").write_text(json_text(whole), encoding="utf-8", errors="replace")
    _print_table(whole, folder)


def build_page(
    run: str, report: dict[str, Any], rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]
) -> str:
    """Returns the page of a report as HTML, with arguments as in `write_report`."""
    shown = {name: _largest(report[name]) for name in GROUPS}
    return render(
        "validation.html.jinja",
        run=run,
        report=report,
        verdict=verdict(report),
        cards=cards(report),
        groups=[
            {
                "title": f"Pair accuracy by {label}",
                "svg": charts.accuracy_chart(name, label, shown[name], report["pair_accuracy"]["value"]),
                "left_out": len(report[name]) - len(shown[name]),
            }
            for name, label in GROUPS.items()
            if report[name]
        ],
        reliability=charts.reliability_chart(report["calibration"]["bins"]),
        length=charts.length_chart(rewards, lengths),
        like=LIKE,
    )


def verdict(report: dict[str, Any]) -> str:
    """Returns the result in two sentences."""
    accuracy, error = report["pair_accuracy"], report["calibration"]["error"]
    interval = f"95 % interval {percent(accuracy['ci_low'])} to {percent(accuracy['ci_high'])}"
    better = "better than" if accuracy["ci_low"] > 0.5 else "not clearly better than"
    return (
        f"The reward model orders {percent(accuracy['value'])} of {report['pairs']} held-out pairs as labelled "
        f"({interval}), {better} chance. Its probabilities are off by {number(100 * error, 1)} points on average."
    )


def cards(report: dict[str, Any]) -> list[dict[str, str]]:
    """Returns the four figures at the top of the page."""
    accuracy, length, shown = report["pair_accuracy"], report["length"], report["demonstrations"]
    interval = f"{percent(accuracy['ci_low'])} to {percent(accuracy['ci_high'])}; {accuracy['pairs']} pairs"
    error = number(report["calibration"]["error"], 3)
    ranks = f"Spearman {signed(length['spearman'])}; within prompts {signed(length['pearson_within_rows'])}"
    before = "none given (--data.demonstrations_path)"
    if shown:
        before = f"{signed(shown['mean_before_bias'])} before the bias of {signed(shown['bias'])}"
    return [
        card("pair accuracy", percent(accuracy["value"]), interval, "good" if accuracy["ci_low"] > 0.5 else "bad"),
        card("calibration error (ECE)", error, "mean gap between confidence and accuracy"),
        card("correlation with length", signed(length["pearson"]), ranks),
        card("demonstrations", signed(shown["mean_after_bias"] if shown else None), before),
    ]


def _groups(rows: Sequence[RankedComparison], pairs: Pairs, seed: int) -> dict[str, dict[str, Any]]:
    of_row: dict[str, list[Any]] = {
        "by_k": [len(row.ranks) for row in rows],
        "by_use_case": [row.extra.get("use_case") for row in rows],
        "by_labeler": [row.extra.get("labeler") for row in rows],
        "by_subset": [row.extra.get("subset") for row in rows],
    }
    keys = {name: _texts(values)[pairs.row] for name, values in of_row.items()}
    keys["by_rank_distance"] = _texts(pairs.distance.tolist())
    return {name: _accuracies(pairs, keys[name], seed) for name in GROUPS}


def _texts(values: Sequence[Any]) -> np.ndarray:
    return np.array([None if value is None else str(value) for value in values], dtype=object)


def _accuracies(pairs: Pairs, keys: np.ndarray, seed: int) -> dict[str, Any]:
    """Pair accuracy of each key, in numeric or alphabetical order."""
    distinct = {key for key in keys.tolist() if key is not None}
    numeric = all(key.isdigit() for key in distinct)
    ordered = sorted(distinct, key=lambda key: (len(key) if numeric else 0, key))
    found = {key: pair_accuracy(pairs, keys == key, seed) for key in ordered}
    return {key: rounded(accuracy) for key, accuracy in found.items() if accuracy is not None}


def _demonstrations(found: Demonstrations | None) -> dict[str, Any] | None:
    if found is None:
        return None
    mean = float(np.mean(found.rewards))
    figures = {"mean_before_bias": mean, "bias": found.bias, "mean_after_bias": mean + found.bias}
    return {"count": len(found.rewards)} | {name: round(value, 6) for name, value in figures.items()}


def _largest(groups: dict[str, Any]) -> dict[str, Any]:
    """The groups with the most pairs, in their original order."""
    kept = sorted(groups, key=lambda name: -groups[name]["pairs"])[:SHOWN_GROUPS]
    return {name: groups[name] for name in groups if name in kept}


def _print_table(report: dict[str, Any], folder: Path) -> None:
    table = Table("", title=f"{report['rows']} held-out comparisons, {report['pairs']} pairs")
    for column in ("pair accuracy", "95 % interval", "pairs"):
        table.add_column(column, justify="right")
    table.add_row("all", *_cells(report["pair_accuracy"]), end_section=True)
    for name, label in GROUPS.items():
        for key, accuracy in _largest(report[name]).items():
            table.add_row(
                Text(printable(f"{label}: {charts.shortened(key)}")), *_cells(accuracy)
            )  # Text: names are not markup
        table.add_section()
    console = Console()
    console.print(table)
    length, shown = report["length"], report["demonstrations"]
    lines = [
        f"calibration error of sigmoid(r_w - r_l): {number(report['calibration']['error'], 3)}",
        f"correlation with length: Pearson {signed(length['pearson'])}, Spearman {signed(length['spearman'])}",
        f"pairs of like length: {_told(report['pair_accuracy_at_like_length'])}",
    ]
    if shown:
        before, after = signed(shown["mean_before_bias"]), signed(shown["mean_after_bias"])
        lines.append(f"mean reward of {shown['count']} demonstrations: {before} before the bias, {after} after it")
    lines += [f"report: {folder / name}" for name in ("validation.html", "validation.json")]
    for line in lines:
        console.print(Text(printable(line)), soft_wrap=True)


def _told(accuracy: dict[str, Any] | None) -> str:
    if accuracy is None:
        return "none"
    value, interval, pairs = _cells(accuracy)
    return f"accuracy {value} ({interval}), {pairs} pairs"


def _cells(accuracy: dict[str, Any]) -> tuple[str, str, str]:
    interval = f"{accuracy['ci_low']:.3f} to {accuracy['ci_high']:.3f}"
    return f"{accuracy['value']:.3f}", interval, str(accuracy["pairs"])
