"""The comparison as a table in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lit_instruct.evaluation.measures import LABELS, system_labels


def print_summary(report: dict[str, Any], folder: Path) -> None:
    """Prints the table, the gain of PPO and the path of the report."""
    systems = list(system_labels(report["options"]["best_of"]))
    table = Table(title=f"{report['prompts']} held-out prompts: mean ± half the 95 % interval")
    table.add_column("")
    for name in systems:
        table.add_column(name, justify="right")
    for measure, label in LABELS.items():
        table.add_row(label, *(_cell(report[measure][name]) for name in systems))
    console = Console()
    console.print(table)
    console.print(f"PPO minus SFT, labeler: {_range(report['labeler']['ppo_minus_sft'])}", highlight=False)
    console.print(f"PPO preferred to SFT:   {_range(report['win_rate']['ppo_vs_sft'])}", highlight=False)
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", markup=False, highlight=False)
    console.print(f"report: {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def _cell(interval: dict[str, float]) -> str:
    return f"{interval['mean']:.2f} ± {(interval['ci_high'] - interval['ci_low']) / 2:.2f}"


def _range(interval: dict[str, float]) -> str:
    return f"{interval['mean']:.2f} ({interval['ci_low']:.2f} to {interval['ci_high']:.2f})"
