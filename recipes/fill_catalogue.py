"""Fills the catalogue of recipes/README.md: plans every recipe and adds what was measured.

    python recipes/fill_catalogue.py

Predicted memory comes from `lit-instruct plan`, measured memory and time from `make gpu-check`
(benchmarks/results/gpu-*.json) or from the reports of whole runs in recipes/<name>/results/.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lit_instruct.commands.plan import card_of, plan_of, read_arguments
from lit_instruct.planning.plan import Plan
from lit_instruct.planning.rates import RESULTS, file_name, measured
from lit_instruct.planning.table import GIB, gib

RECIPES = Path(__file__).parent
STAGES = ("sft", "rm", "ppo")
COLUMNS = ("recipe", "hardware", "base model", "data", "trained", "predicted, GiB", "measured, GiB", "time", "reached")
NOT_MEASURED = "not measured yet"
UNTRAINED = "runs/not-trained"
"""A run that does not exist: with an existing one, later stages would be planned for the base of its SFT stage."""
MADE_FROM = {"runs/data/imdb/": "stanfordnlp/imdb"}
"""Folder that a recipe's make_data.py writes -> the dataset that it reads."""
MARKS = re.compile(r"(<!-- catalogue -->)\n.*?\n(<!-- end catalogue -->)", re.DOTALL)
OPENING = re.compile(r"^# Hardware: (.+)$", re.MULTILINE)


def filled(text: str, plans: dict[str, dict[str, Plan]]) -> str:
    """Returns the README with its catalogue regenerated.

    Args:
        text: of the README.
        plans: recipe -> stage -> plan, in the order of the lines.
    """
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(line(name, stages) for name, stages in plans.items())]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return MARKS.sub(lambda found: f"{found[1]}\n{table}\n{found[2]}", text)


def all_plans() -> dict[str, dict[str, Plan]]:
    """Plans every stage of every recipe: demo first, then by hardware."""
    folders = sorted({path.parent for path in RECIPES.glob("*/ppo.yaml")}, key=_place)
    return {folder.name: {stage: plan_recipe(folder / f"{stage}.yaml") for stage in own(folder)} for folder in folders}


def own(folder: Path) -> list[str]:
    """Returns the stages that a recipe has."""
    return [stage for stage in STAGES if (folder / f"{stage}.yaml").is_file()]


def plan_recipe(config: Path, *words: str) -> Plan:
    """Plans a stage of a recipe for the hardware that it names; a CPU recipe in bfloat16, whatever this CPU has."""
    own = read_arguments(["--config", str(config), "--run", UNTRAINED, *words])
    if card_of(own) is not None:
        return plan_of(own)
    return plan_of(replace(own, words=[*own.words, "--model.dtype=bfloat16", "--trainer.accelerator=cpu"]))


def hardware(folder: Path) -> str:
    """Returns the hardware that the PPO stage of a recipe names."""
    found = OPENING.search((folder / "ppo.yaml").read_text(encoding="utf-8"))
    assert found is not None, folder
    return found[1]


def line(name: str, plans: dict[str, Plan]) -> list[str]:
    """Returns the cells of a recipe."""
    folder = RECIPES / name
    reports = sorted((folder / "results").glob("seed-*.json"))
    memory, time, reached = _of_reports(reports) if reports else (*_of_checks(folder), "not trained yet")
    options = {stage: yaml.safe_load((folder / f"{stage}.yaml").read_text(encoding="utf-8")) for stage in own(folder)}
    first = next(iter(options))
    trained = "all weights" if plans[first].work.lora is None else "LoRA"
    later = "all weights" if plans["ppo"].work.lora is None else "LoRA"
    bits = {"none": "", "8bit": ", 8 bits", "4bit": ", 4 bits"}[plans["ppo"].work.quantize]
    return [
        f"[{name}]({name}/)",
        hardware(folder).split(";")[0],
        str(options[first]["model"].get("base", "smollm2-135m-instruct")).partition("@")[0],
        ", ".join(dict.fromkeys(_dataset(found["data"]["path"]) for found in options.values())),
        (trained if trained == later else f"{trained}, then {later}") + bits,
        ", ".join(gib(plans[stage].memory.peak) if stage in plans else "-" for stage in STAGES),
        memory,
        time,
        reached,
    ]


def _place(folder: Path) -> tuple[int, int, str]:
    """Demo first, then other CPUs, single cards by their size, nodes, and the paper's."""
    group = ("demo", "smollm2", "imdb", "gpu", "node", "multi", "paper")
    size = re.search(r"(\d+)gb", folder.name)
    return (
        next(number for number, start in enumerate(group) if folder.name.startswith(start)),
        int(size[1]) if size else 0,
        folder.name,
    )


def _dataset(path: str) -> str:
    made_from = next((hub for folder, hub in MADE_FROM.items() if path.startswith(folder)), path)
    return "ours" if path.startswith("recipes/") else made_from.partition("@")[0].partition(":")[0]


def _of_checks(folder: Path) -> tuple[str, str]:
    """Memory and seconds per step, measured by `make gpu-check`."""
    found = [measured(folder, stage) for stage in STAGES]
    if not all(found):
        return NOT_MEASURED, NOT_MEASURED
    origin = f" ([JSON](../{RESULTS / file_name(folder.name)}))"
    peaks = ", ".join(gib(stage["peak_bytes"]) for stage in found if stage)
    return peaks + origin, ", ".join(f"{stage['seconds_per_step']:.1f}" for stage in found if stage) + " s per step"


def _of_reports(reports: list[Path]) -> tuple[str, str, str]:
    """Memory of whole runs, time of the fastest (others had work beside them), and the gain by the labeler."""
    module = _fill_table()
    read = [module.json.loads(path.read_text()) for path in reports]

    def cells(row: str) -> list[str]:
        return [module.ROWS[row](report) for report in read]

    peaks = [[float(cell) * 1e9 / GIB for cell in peak.split(", ")][:3] for peak in cells("peak memory, GB")]
    gains = [float(cell.split()[0]) for cell in cells("**PPO minus SFT**")]
    minutes = [float(cell) for cell in cells("minutes in total")]
    origin = f" ([JSON]({reports[0].parent.parent.name}/results/))"
    return (
        ", ".join(f"{max(stage):.1f}" for stage in zip(*peaks, strict=True)) + origin,
        f"{min(minutes)} min in total",
        f"labeler {min(gains):+.2f} to {max(gains):+.2f} over SFT",
    )


def _fill_table() -> Any:
    spec = importlib.util.spec_from_file_location("fill_table", RECIPES / "fill_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Updates the README."""
    readme = RECIPES / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(filled(text, all_plans()), encoding="utf-8")


if __name__ == "__main__":
    main()
