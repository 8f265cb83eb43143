"""Supervised fine-tuning: lit-instruct's stage against TRL's SFTTrainer.train() with the same options.

`python -m benchmarks.sft` writes benchmarks/results/sft.json: seconds per step on the demo's demonstrations, the same
rows in the same order on both sides, with and without packing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_results
from benchmarks.sft_work import VARIANTS, WARM_UP, Variant
from benchmarks.sides import SIDES, Result, Work, run_side, take_turns
from lit_instruct.models.embedded import NAME

MODULE = "benchmarks.sft"
GOAL = 1.02
"""Most seconds a step of ours, in those of TRL."""
SAME = (
    "the demo's demonstrations of up to max_length tokens in the same order; LoRA r=16 on every linear layer; no "
    "gradient checkpointing; AdamW, cosine to a tenth, no clipping; frozen weights and autocast in bfloat16 where the "
    "CPU computes in it; each run in a process of its own; of each step the median over the runs, of those the mean"
)
NOTE = (
    "On a CPU the stage gives TRL's fused output head, which has kernels for GPUs only, a replacement that runs the "
    "vocabulary over the trained tokens alone; that, not the loop, is where ours is faster than TRL's own train(). "
    "On a GPU both run TRL's head."
)


def compare(variant: Variant, runs: Mapping[str, list[Result]]) -> dict[str, Any]:
    """Returns seconds per step of both sides, and whether ours are within the goal.

    Args:
        variant: of the benchmark.
        runs: side -> results.
    """
    seconds = {side: seconds_per_step([run["step_seconds"] for run in runs[side]]) for side in SIDES}
    ratio = seconds["ours"] / seconds["trl"]
    return {
        "workload": asdict(variant),
        "seconds_per_step": {side: round(seconds[side], 4) for side in SIDES},
        "ratio": round(ratio, 3),
        "goal": GOAL,
        "reached": ratio <= GOAL,
        "peak_mb": {side: round(median(run["peak_bytes"] for run in runs[side]) / 1e6) for side in SIDES},
        "losses": {side: runs[side][0]["losses"] for side in SIDES},
        "runs": {side: [[round(step, 4) for step in run["step_seconds"]] for run in runs[side]] for side in SIDES},
    }


def seconds_per_step(runs: list[list[float]]) -> float:
    """Returns the mean over steps of the median over runs; the first WARM_UP steps do not count.

    Args:
        runs: seconds of each step of each run; steps with the same number do the same work.
    """
    return mean(median(step) for step in list(zip(*runs, strict=True))[WARM_UP:])


def table_of(variants: Mapping[str, dict[str, Any]]) -> Table:
    """Returns the results as a table, ours before TRL's."""
    table = Table("rows are", "seconds a step", "ratio (goal)", "reached", "peak MB", title="SFT, ours / TRL")
    for name, found in variants.items():
        seconds, peak = (f"{found[key]['ours']} / {found[key]['trl']}" for key in ("seconds_per_step", "peak_mb"))
        ratio = f"{found['ratio']} (<= {found['goal']})"
        table.add_row(name, seconds, ratio, "yes" if found["reached"] else "no", peak)
    return table


def main(words: list[str] | None = None) -> int:
    """Measures and writes the JSON; as a side, prints what was found as JSON."""
    options = _parser().parse_args(words)
    if options.side is not None:
        print(json.dumps(_answer(options.side, json.loads(options.work))))
        return 0
    console = Console()
    variants = {name: VARIANTS[name] for name in options.variants}
    if options.quick:
        variants = {name: replace(variant, steps=WARM_UP + 2) for name, variant in variants.items()}
    works = {}
    for name, variant in variants.items():
        work = {"name": name, "variant": asdict(variant), "base": options.base}
        works[name] = dict.fromkeys(SIDES, work)
    runs = take_turns(works, 1 if options.quick else options.repetitions, partial(_run, console))
    found = {name: compare(variant, runs[name]) for name, variant in variants.items()}
    console.print(table_of(found))
    if options.out is not None or not options.quick:
        results = {"same": SAME, "note": NOTE, "base": options.base, "variants": found}
        console.print("written to", write_results(options.out or "sft.json", results).name)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sft", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default=NAME, help="model: embedded name, folder or hub id")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=("padded", "packed"), help="of batches")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each side with each variant")
    parser.add_argument("--quick", action="store_true", help="two steps, once; no file unless --out names one")
    parser.add_argument("--out", help="file of the results (sft.json); a bare name goes into benchmarks/results")
    for name in ("side", "work"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser


def _run(console: Console, side: str, work: Work) -> Result:
    found = run_side(MODULE, side, work)
    steps = found["step_seconds"][WARM_UP:]
    console.print(f"{work['name']}: {side} {mean(steps):.3f} s a step")
    return found


def _answer(side: str, work: Work) -> Result:
    """What a process of its own is there for."""
    from benchmarks import sft_sides

    variant, base = Variant(**work["variant"]), work["base"]
    return sft_sides.ours(variant, base) if side == "ours" else sft_sides.trl(variant, base)


if __name__ == "__main__":
    sys.exit(main())
