"""Fills the table of recipes/README.md from the reports in recipes/<name>/results/ (python recipes/fill_table.py)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parent
STAGES = ("sft", "rm", "ppo", "eval")
Report = dict[str, Any]


def table(recipe: Path) -> str:
    """Returns a Markdown table with a column for each report of a recipe, seed-0.json first."""
    reports = {path.stem.replace("-", " "): json.loads(path.read_text()) for path in _reports(recipe)}
    lines = ["| | " + " | ".join(reports) + " |", "|---|" + "---|" * len(reports)]
    for name, cell in ROWS.items():
        lines.append(f"| {name} | " + " | ".join(cell(report) for report in reports.values()) + " |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """Returns the README with its tables regenerated between `<!-- table NAME -->` and `<!-- end table -->`."""

    def fill(found: re.Match[str]) -> str:
        return f"{found[1]}\n{table(RECIPES / found[2])}\n{found[3]}"

    return re.sub(r"(<!-- table (\w+) -->)\n.*?\n(<!-- end table -->)", fill, text, flags=re.DOTALL)


def _reports(recipe: Path) -> list[Path]:
    return sorted((recipe / "results").glob("seed-*.json"))


def _signed(interval: Report) -> str:
    return f"{interval['mean']:+.2f} ({interval['ci_low']:+.2f} to {interval['ci_high']:+.2f})"


def _plain(interval: Report) -> str:
    return f"{interval['mean']:.2f} ({interval['ci_low']:.2f} to {interval['ci_high']:.2f})"


def _best_of(report: Report) -> str:
    return next(
        f"{of['mean']:+.2f} (n = {name.removeprefix('best_of_')})"
        for name, of in report["labeler"].items()
        if name.startswith("best_of_")
    )


def _pair(of: Report, digits: int) -> str:
    return f"{of['sft']['mean']:.{digits}f}, {of['ppo']['mean']:.{digits}f}"


ROWS: dict[str, Callable[[Report], str]] = {
    "labeler score, SFT": lambda report: f"{report['labeler']['sft']['mean']:+.2f}",
    "labeler score, best of n": _best_of,
    "labeler score, PPO": lambda report: f"{report['labeler']['ppo']['mean']:+.2f}",
    "**PPO minus SFT**": lambda report: _signed(report["labeler"]["ppo_minus_sft"]),
    "PPO preferred to SFT": lambda report: _plain(report["win_rate"]["ppo_vs_sft"]),
    "second labeler, PPO minus SFT": lambda report: _signed(report["second_labeler"]["ppo_minus_sft"]),
    "KL to SFT, nats per response": lambda report: _plain(report["kl"]["ppo"]),
    "distinct-2, PPO / SFT": lambda report: f"{report['distinct_2']['ppo_over_sft']:.2f}",
    "EOS share, SFT and PPO": lambda report: _pair(report["eos_share"], 2),
    "length, SFT and PPO, tokens": lambda report: _pair(report["length"], 0),
    "reward model, pair accuracy": lambda report: f"{report['reward_model']['pair_accuracy']:.3f}",
    "seconds: sft, rm, ppo, eval": lambda report: ", ".join(f"{report['seconds'][stage]:.0f}" for stage in STAGES),
    "minutes in total": lambda report: f"{sum(report['seconds'][stage] for stage in STAGES) / 60:.1f}",
    "peak memory, GB": lambda report: ", ".join(f"{report['peak_memory_gb'][stage]:.1f}" for stage in STAGES),
}


if __name__ == "__main__":
    readme = RECIPES / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
