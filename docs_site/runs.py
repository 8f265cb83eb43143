"""Trains the healthy and the sick run of docs/tutorials/verifiable.md, and draws their curves for docs/diagnostics.md.

python -m docs_site.runs            trains what runs/docs lacks; writes docs/runs.json, docs/runs.png and a table
python -m docs_site.runs --draw     draws from docs/runs.json alone
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs/tutorials/verifiable.md"
RESULT, PICTURE = ROOT / "docs/runs.json", ROOT / "docs/runs.png"
RUNS = {"sums": "healthy: pays right answers", "sums-longest": "sick: pays length"}
PANELS = {
    "ppo/reward": "reward",
    "val/labeler": "right answers, held out",
    "ppo/kl": "KL to the start, nats",
    "ppo/response_length": "length, tokens",
    "ppo/eos_share": "share that ends by itself",
    "ppo/entropy": "entropy, nats per token",
}
Curves = dict[str, list[list[float]]]


def commands(page: str) -> list[str]:
    """Returns the trainings of the page, without the command itself."""
    return re.findall(r"^\.venv/bin/lit-instruct (ppo fit .*)$", page, re.M)


def write_files(page: str, folder: Path) -> None:
    """Writes the files of the page's code blocks, each named in its first line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, code in re.findall(r"```\w+\n# (\w+\.\w+)\n(.*?)```", page, re.S):
        (folder / name).write_text(code, encoding="utf-8")


def train(page: str, folder: Path) -> None:
    """Runs the page's commands that have not been run in this folder."""
    write_files(page, folder)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "make_sums.py"], cwd=folder, env=env, check=True)
    for command in commands(page):
        words = command.split()
        if not (folder / words[words.index("--run") + 1] / "ppo/stage.json").exists():
            subprocess.run([sys.executable, "-m", "lit_instruct.cli", *words], cwd=folder, env=env, check=True)


def curves(file: Path) -> Curves:
    """Returns name -> [iteration, value] of a metrics.csv, for the figures of the PANELS."""
    found: Curves = {name: [] for name in PANELS}
    iteration = 0.0
    with file.open(newline="") as rows:
        for row in csv.DictReader(rows):
            iteration = float(row.get("ppo/iteration") or iteration)
            for name in PANELS:
                if row.get(name):
                    found[name].append([iteration, round(float(row[name]), 4)])
    return found


def draw(result: dict[str, Any], path: Path) -> None:
    """Draws a panel for each figure, with a line for each run."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(10, 5.2), layout="constrained")
    styles = (("#0072b2", "-"), ("#d55e00", "--"))
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        for (run, label), (color, style) in zip(RUNS.items(), styles, strict=True):
            points = result["runs"][run][name]
            axis.plot(*zip(*points, strict=True), style, color=color, label=label)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("iteration")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


def table(result: dict[str, Any]) -> str:
    """Returns the share of right answers on held-out sums at the first and the last validation of both runs."""
    lines = ["| run | right answers at iteration | | reward in training | |", "|---|---|---|---|---|"]
    for run, label in RUNS.items():
        right, reward = result["runs"][run]["val/labeler"], result["runs"][run]["ppo/reward"]
        cells = [f"{value:.2f} ({iteration:.0f})" for iteration, value in (right[0], right[-1], reward[0], reward[-1])]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    machine, versions = result["machine"], result["versions"]
    lines.append("")
    lines.append(
        f"{machine['system']} {machine['architecture']}, {machine['cpu_cores']} cores, with other work beside; "
        f"torch {versions['torch']}, transformers {versions['transformers']}; {result['date'][:10]}. Behind each "
        f"figure stands its iteration; {len(result['held_out'])} rows with {len(set(result['held_out']))} different "
        f"sums were held out. `python -m docs_site.runs` measured it."
    )
    return "\n".join(lines)


def filled(page: str, result: dict[str, Any]) -> str:
    """Returns the page with its table."""
    return re.sub(
        r"(<!-- table sums -->\n).*?(<!-- end table -->)",
        lambda found: found[1] + table(result) + "\n" + found[2],
        page,
        flags=re.S,
    )


def main(words: list[str]) -> None:
    """Trains, measures and draws."""
    page, folder = TUTORIAL.read_text(encoding="utf-8"), ROOT / "runs/docs"
    if "--draw" not in words:
        from lit_instruct.machine import provenance

        train(page, folder)
        samples = [json.loads(line) for line in (folder / "runs/sums/ppo/logs/samples.jsonl").open()]
        held_out = [sample["prompt"] for sample in samples if sample["iteration"] == samples[0]["iteration"]]
        runs = {run: curves(folder / "runs" / run / "ppo/logs/metrics.csv") for run in RUNS}
        result = provenance() | {"commands": commands(page), "held_out": held_out, "runs": runs}
        RESULT.write_text(json.dumps(result) + "\n", encoding="utf-8")
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    draw(result, PICTURE)
    TUTORIAL.write_text(filled(page, result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
