"""The comparison as a table in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_instruct.evaluation.measures import labels_of
from lit_instruct.evaluation.page import number
from lit_instruct.evaluation.seen import name_of_prompts
from lit_instruct.evaluation.tasks.figures import LABELS
from lit_instruct.terminal import printable


def print_summary(report: dict[str, Any], folder: Path) -> None:
    """Prints the table, the gain of each pair, what is left out, warnings, and the path of the report."""
    systems, labels = list(report["systems"]), report["systems"]
    prompts = f"{report['prompts']} {name_of_prompts(report['seen'])}"
    table = Table(title=f"{prompts}: mean ± half the 95 % interval")
    table.add_column("")
    for name in systems:
        table.add_column(Text(printable(name)), justify="right")
    for measure, label in labels_of(report["judge"]).items():
        if measure in report:
            table.add_row(Text(printable(label)), *(_cell(report[measure].get(name)) for name in systems))
    console = Console(highlight=False)

    def say(line: str, **how: Any) -> None:
        console.print(Text(printable(line)), **how)

    console.print(table)
    for ours, theirs in report["pairs"]:
        gain, win = report["labeler"][f"{ours}_minus_{theirs}"], report["win_rate"][f"{ours}_vs_{theirs}"]
        first = f"{labels[ours]} minus {labels[theirs]}, {report['judge']}:"
        titles = (first, f"{labels[ours]} preferred to {labels[theirs]}:")
        for title, interval in zip(titles, (gain, win), strict=True):
            say(f"{title:<{max(map(len, titles))}} {_range(interval)}")
    if report["tasks"] is not None:
        console.print(_task_table(report))
    for note in report["left_out"]:
        say(note)
    for warning in report["warnings"]:
        say(f"warning: {warning}")
    say(f"report: {folder / 'report.html'}", soft_wrap=True)


def _task_table(report: dict[str, Any]) -> Table:
    """Means of each system on each task, then the paired differences."""
    labels, pairs = report["systems"], [tuple(pair) for pair in report["task_pairs"]]
    table = Table(title="tasks: mean over questions; differences with their 95 % interval")
    table.add_column("")
    systems = [name for name in labels if any(name in pair for pair in pairs)]
    for title in [*(labels[name] for name in systems), *(f"{labels[a]} minus {labels[b]}" for a, b in pairs)]:
        table.add_column(Text(printable(title)), justify="right")
    for task, found in report["tasks"].items():
        chance = f", guessing {_number(found['chance'])}" if found["chance"] is not None else ""
        table.add_row(Text(printable(f"{task} ({found['questions']}{chance})")))
        for measure, one in found["measures"].items():
            means = [_number(one[name]["mean"]) for name in systems]
            differences = [_range(one[f"{ours}_minus_{theirs}"]) for ours, theirs in pairs]
            table.add_row(Text(printable(f"  {LABELS.get(measure, measure)}")), *means, *differences)
    return table


def _cell(interval: dict[str, float] | None) -> str:
    if interval is None:
        return "-"
    return f"{_number(interval['mean'])} ± {_number((interval['ci_high'] - interval['ci_low']) / 2)}"


def _range(interval: dict[str, float]) -> str:
    return f"{_number(interval['mean'])} ({_number(interval['ci_low'])} to {_number(interval['ci_high'])})"


def _number(value: float) -> str:
    """As in the page, with the minus sign of a keyboard."""
    return number(value).replace("\N{MINUS SIGN}", "-")
