"""Supervised fine-tuning: lit-instruct's stage against TRL's SFTTrainer.train() with the same options.

`python -m benchmarks.sft` writes benchmarks/results/sft.json: seconds per step on the demo's demonstrations, the same
rows in the same order on both sides, with and without packing.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import mean, median
from typing import Any

from benchmarks.harness import SIDES, Command, Found, Result, run_side, take_turns
from benchmarks.precisions import not_run
from lit_instruct.models.embedded import NAME

GOAL = 1.02
"""Our seconds per step over TRL's, at most: the project's own target, set before measuring."""
SAME = (
    "the demo's demonstrations of up to max_length tokens in the same order; LoRA r=16 on every linear layer; no "
    "gradient checkpointing; AdamW, cosine to a tenth, no clipping; frozen weights and autocast in bfloat16 where the "
    "CPU computes in it; each run in a process of its own; the mean over steps of the median over runs"
)
NOTE = (
    "On a CPU the stage gives TRL's fused output head, which has kernels for GPUs only, a replacement that runs the "
    "vocabulary over the trained tokens alone; that, not the loop, is where ours is faster than TRL's own train(). "
    "On a GPU both run TRL's head."
)


@dataclass(frozen=True)
class Variant:
    """How the rows become batches."""

    packing: bool  # fills sequences of `max_length` tokens with several rows
    padding_free: bool  # concatenates the rows of a batch instead of padding them
    batch_size: int  # rows per step; with packing, packed rows
    steps: int  # optimizer steps, WARM_UP ones included
    max_length: int = 256  # tokens of a packed sequence, and the limit per row


WARM_UP = 1
"""Steps that do not count."""
STEPS = 10
"""Steps that do."""
VARIANTS = {
    "padded": Variant(packing=False, padding_free=False, batch_size=2, steps=WARM_UP + STEPS),
    "packed": Variant(packing=True, padding_free=False, batch_size=1, steps=WARM_UP + STEPS),
    "padding_free": Variant(packing=False, padding_free=True, batch_size=2, steps=WARM_UP + STEPS),
}


def compare(variant: Variant, runs: Mapping[str, list[Result]]) -> dict[str, Any]:
    """Returns seconds per step of both sides, and whether ours are within the goal."""
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
    """Returns the mean over steps, without WARM_UP, of the median over runs, in all of which a step does the same."""
    return mean(median(step) for step in list(zip(*runs, strict=True))[WARM_UP:])


def measure(options: Namespace) -> Found:
    """Lets the sides take turns on each variant."""
    variants = {name: VARIANTS[name] for name in options.variants}
    if options.quick:
        variants = {name: replace(variant, steps=WARM_UP + 2) for name, variant in variants.items()}
    works = {}
    for name, variant in variants.items():
        work = {"workload": variant, "base": options.base}
        works[name] = {"trl": work, "ours": work}
    run = partial(run_side, "benchmarks.sft_sides")
    runs = take_turns(
        works, options.repetitions, run, lambda found: f"{mean(found['step_seconds'][WARM_UP:]):.3f} s per step"
    )
    found = {name: compare(variant, runs[name]) for name, variant in variants.items()}
    results = {"same": SAME, "note": NOTE, "base": options.base, "not_run": not_run(NAME), "variants": found}
    return Found(results, "sft.json", tables=("sft",))


OPTIONS = {
    "--variants": {"nargs": "+", "choices": VARIANTS, "default": ("padded", "packed"), "help": "kinds of batches"}
}
main = Command("benchmarks.sft", __doc__, measure, OPTIONS, repetitions=3, quick="two steps, once", base=True)

if __name__ == "__main__":
    raise SystemExit(main())
