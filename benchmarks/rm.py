"""Reward models: lit-instruct's stage against TRL's RewardTrainer on the same comparisons, expanded to pairs for TRL.

`python -m benchmarks.rm` writes the part "speed" of benchmarks/results/rm.json: comparisons per second and peak memory
for K = 4 and 9 and prompt:response lengths 1:1 and 8:1. `python -m benchmarks.rm --quality` writes the part "quality":
loss and pair accuracy of both per epoch on comparisons of the demo. Both leave the other part as it was.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from benchmarks.harness import SIDES, Command, Found, Result, medians, run_side, say, take_turns
from benchmarks.precisions import not_run
from benchmarks.rm_work import CASES, Case, fastest
from lit_instruct.models.embedded import NAME

SIDES_MODULE = "benchmarks.rm_sides"
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


def measure_speed(cases: Sequence[Case], base: str, repetitions: int) -> dict[str, Any]:
    """Searches for TRL's fastest micro-batch, lets both sides take turns, and returns the part "speed"."""
    tries, works = {}, {}
    for case in cases:
        work = {"workload": case, "base": base}
        tries[case.name] = run_side(SIDES_MODULE, "search", work)["tries"]
        micro_batch = fastest(tries[case.name])
        works[case.name] = {"trl": work | {"micro_batch": micro_batch}, "ours": work}
        say(f"{case.name}: TRL is fastest with {micro_batch} pairs per forward")
    run = partial(run_side, SIDES_MODULE)
    runs = take_turns(works, repetitions, run, lambda found: f"{found['pairs_per_second']:.2f} pairs/s")
    found = [compare(case, tries[case.name], runs[case.name]) for case in cases]
    return {
        "same": SAME,
        "ways": WAYS,
        "base": base,
        "repetitions": repetitions,
        "not_run": not_run(NAME),
        "cases": found,
    }


def compare(case: Case, tries: list[dict[str, Any]], runs: Mapping[str, list[Result]]) -> dict[str, Any]:
    """Returns medians of a case, and how they compare with the goals."""
    middle = {side: medians(runs[side]) for side in SIDES}
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


def measure(options: Namespace) -> Found:
    """Measures one part of the results."""
    if options.quality:
        prompts = 4 if options.quick else options.prompts
        lesson = {"base": options.base, "prompts": prompts, "held_out": prompts, "epochs": options.epochs}
        lesson |= {"batch_size": 2, "micro_batch": 4}
        learned = {side: run_side("benchmarks.rm_quality", side, lesson) for side in SIDES}
        part = {"same": SAME_LESSON, "lesson": lesson, **learned}
        return Found(part, "rm.json", ("rm-quality",), part="quality")
    cases = [case for case in CASES if case.responses in options.k]
    cases = [cases[0].smaller()] if options.quick else cases
    part = measure_speed(cases, options.base, options.repetitions)
    return Found(part, "rm.json", ("rm-speed",), part="speed")


OPTIONS = {
    "--k": {"type": int, "nargs": "+", "choices": (4, 9), "default": (4, 9), "help": "responses per prompt"},
    "--quality": {"action": "store_true", "help": "what both sides learn, instead of how fast"},
    "--prompts": {"type": int, "default": 24, "help": "with --quality: prompts trained on, and held out"},
    "--epochs": {"type": int, "default": 1, "help": "with --quality: over the prompts"},
}
main = Command("benchmarks.rm", __doc__, measure, OPTIONS, repetitions=3, quick="one tiny case, once", base=True)

if __name__ == "__main__":
    raise SystemExit(main())
