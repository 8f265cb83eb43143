"""Reward models: lit-instruct's stage against TRL's RewardTrainer on the same comparisons, expanded to pairs for TRL.

`python -m benchmarks.rm` writes the part "speed" of benchmarks/results/rm.json: comparisons per second and peak memory
for K = 4 and 9 and prompt:response lengths 1:1 and 8:1. `python -m benchmarks.rm --quality` writes the part "quality":
loss and pair accuracy of both per epoch on comparisons of the demo. Both leave the other part as it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.environment import results_file, write_results
from benchmarks.rm_work import CASES, Case, fastest
from benchmarks.sides import SIDES, Result, Work, run_side, take_turns
from lit_instruct.models.embedded import NAME

MODULE = "benchmarks.rm"
WAYS = {
    "ours": "RewardModule in Lightning's Trainer with the loggers of `lit-instruct rm fit`; shared_prompt=auto",
    "trl": "RewardTrainer.train() on all pairs; one optimizer step takes the pairs of the same prompts by accumulation",
}
SAME = (
    "random token ids of exact length, ranks without ties; LoRA r=16 on every linear layer; no gradient checkpointing; "
    "AdamW, cosine to a tenth, no clipping; frozen weights and autocast in bfloat16 where the CPU computes in it; "
    "each run in a process of its own, before the clock one step (ours) or one micro-batch (TRL) to warm up; "
    "memory is the peak of resident memory of the training, growth what of it exceeds the loaded model"
)
SAME_LESSON = (
    "the demo's ranked comparisons in the same order, as many optimizer steps an epoch, ties left out by both; ours "
    "weighs each prompt alike (eq. 1 of the paper), TRL each pair; loss is the mean over held-out prompts"
)


def measure_speed(cases: Sequence[Case], base: str, repetitions: int, console: Console) -> dict[str, Any]:
    """Looks for TRL's fastest micro-batch, lets both sides take turns, and returns the part "speed".

    Args:
        cases: what is trained.
        base: model.
        repetitions: runs of each side in each case.
        console: to tell what is going on.
    """
    tries, works = {}, {}
    for case in cases:
        work = {"case": asdict(case), "base": base}
        tries[case.name] = run_side(MODULE, "search", work)["tries"]
        micro_batch = fastest(tries[case.name])
        works[case.name] = {side: work | {"micro_batch": micro_batch} for side in SIDES}
        console.print(f"{case.name}: TRL is fastest with {micro_batch} pairs a forward")
    runs = take_turns(works, repetitions, partial(_run, console))
    found = [compare(case, tries[case.name], runs[case.name]) for case in cases]
    return {"same": SAME, "ways": WAYS, "base": base, "repetitions": repetitions, "cases": found}


def compare(case: Case, tries: list[dict[str, Any]], runs: Mapping[str, list[Result]]) -> dict[str, Any]:
    """Returns medians of a case, and how they compare with the goals.

    Args:
        case: of the benchmark.
        tries: TRL's micro-batches.
        runs: side -> results.
    """
    middle = {side: {name: median(run[name] for run in runs[side]) for name in runs[side][0]} for side in SIDES}
    ratio = middle["ours"]["pairs_per_second"] / middle["trl"]["pairs_per_second"]
    memory = middle["ours"]["peak_bytes"] / middle["trl"]["peak_bytes"]
    return {
        "case": case.name,
        "workload": asdict(case),
        "pairs_per_second": {side: round(middle[side]["pairs_per_second"], 3) for side in SIDES},
        "peak_mb": {side: round(middle[side]["peak_bytes"] / 1e6) for side in SIDES},
        "growth_mb": {side: round(middle[side]["growth_bytes"] / 1e6) for side in SIDES},
        "ratio": round(ratio, 2),
        "allowed_by_tokens": round(case.allowed, 1),
        "memory_ratio": round(memory, 3),
        "goals": {
            "ratio": {"goal": case.goal, "reached": ratio >= case.goal},
            "memory_ratio": {"goal": 1, "reached": memory <= 1},
        },
        "trl_micro_batch": fastest(tries),
        "trl_micro_batches": tries,
        "runs": runs,
    }


def speed_table(part: dict[str, Any]) -> Table:
    """Returns the part "speed" as a table, ours before TRL's."""
    names = ("case", "pairs/s", "ratio (goal)", "peak MB", "growth MB", "reached")
    table = Table(*names, title="Reward model, ours / TRL")
    for case in part["cases"]:
        figures = [_both(case[name]) for name in ("pairs_per_second", "peak_mb", "growth_mb")]
        ratio = f"{case['ratio']} ({case['goals']['ratio']['goal']})"
        reached = [name.removesuffix("_ratio") for name, goal in case["goals"].items() if goal["reached"]]
        table.add_row(case["case"], figures[0], ratio, *figures[1:], ", ".join(reached) or "none")
    return table


def measure_quality(lesson: Work, console: Console) -> dict[str, Any]:
    """Trains both sides on the demo's comparisons and returns the part "quality".

    Args:
        lesson: of `rm_quality.Lesson`.
        console: to tell what is going on.
    """
    found = {side: _run(console, f"{side}-quality", lesson) for side in SIDES}
    return {"same": SAME_LESSON, "lesson": lesson, **found}


def quality_table(part: dict[str, Any]) -> Table:
    """Returns the part "quality" as a table, ours before TRL's: a row for the start and for each epoch."""
    table = Table("epoch", "steps", "loss", "pair accuracy", "seconds", title="Held-out comparisons, ours / TRL")
    for epoch, sides in enumerate(zip(*(part[side]["epochs"] for side in SIDES), strict=True)):
        found = dict(zip(SIDES, sides, strict=True))
        names = ("step", "loss", "pair_accuracy", "trained_s")
        table.add_row(str(epoch), *(_both({side: found[side][name] for side in SIDES}) for name in names))
    return table


def write_part(out: str, name: str, part: dict[str, Any]) -> Path:
    """Writes one part of the results; others stay, with the environment that they were measured in.

    Args:
        out: file; a bare name is in benchmarks/results.
        name: of the part.
        part: its content.
    """
    target = results_file(out)
    earlier = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    environment = earlier.pop("environment", {})
    earlier.pop(name, None)
    others = {other: {"environment": environment, **content} for other, content in earlier.items()}
    return write_results(out, {name: part, **others})


def main(words: list[str] | None = None) -> int:
    """Measures and writes one part; as a side, prints what was found as JSON."""
    options = _parser().parse_args(words)
    if options.side is not None:
        print(json.dumps(_answer(options.side, json.loads(options.work))))
        return 0
    console = Console()
    if options.quality:
        name, part, table = _quality(options, console)
    else:
        cases = [case for case in CASES if case.responses in options.k]
        cases = [cases[0].smaller()] if options.quick else cases
        repetitions = 1 if options.quick else options.repetitions
        name, part = "speed", measure_speed(cases, options.base, repetitions, console)
        table = speed_table(part)
    console.print(table)
    if options.out is not None or not options.quick:
        console.print("written to", write_part(options.out or "rm.json", name, part).name)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default=NAME, help="model: embedded name, folder or hub id")
    parser.add_argument("--k", type=int, nargs="+", choices=(4, 9), default=(4, 9), help="responses to a prompt")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each side in each case")
    parser.add_argument("--quality", action="store_true", help="what both sides learn, instead of how fast")
    parser.add_argument("--prompts", type=int, default=24, help="with --quality: prompts trained on, and held out")
    parser.add_argument("--epochs", type=int, default=1, help="with --quality: over the prompts")
    parser.add_argument("--quick", action="store_true", help="one tiny case, once; no file unless --out names one")
    parser.add_argument("--out", help="file of the results (rm.json); a bare name goes into benchmarks/results")
    for name in ("side", "work"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser


def _quality(options: argparse.Namespace, console: Console) -> tuple[str, dict[str, Any], Table]:
    prompts = 4 if options.quick else options.prompts
    lesson = {"base": options.base, "prompts": prompts, "held_out": prompts, "epochs": options.epochs}
    part = measure_quality(lesson | {"batch_size": 2, "micro_batch": 4}, console)
    return "quality", part, quality_table(part)


def _both(figures: Mapping[str, float]) -> str:
    return f"{figures['ours']} / {figures['trl']}"


def _run(console: Console, side: str, work: Work) -> Result:
    found = run_side(MODULE, side, work)
    case = Case(**work["case"]).name + ": " if "case" in work else ""
    rate = f"{found['pairs_per_second']:.2f} pairs/s" if "pairs_per_second" in found else "done"
    console.print(f"{case}{side} {rate}")
    return found


def _answer(side: str, work: Work) -> Result:
    """What a process of its own is there for."""
    from benchmarks import rm_quality, rm_sides

    if side.endswith("-quality"):
        lesson = rm_quality.Lesson(**work)
        return rm_quality.ours(lesson) if side == "ours-quality" else rm_quality.trl(lesson)
    case, base = Case(**work["case"]), work["base"]
    if side == "search":
        return rm_sides.search(case, base)
    return rm_sides.ours(case, base) if side == "ours" else rm_sides.trl(case, base, work["micro_batch"])


if __name__ == "__main__":
    sys.exit(main())
