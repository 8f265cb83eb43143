"""PPO: lit-instruct's stage against the last PPOTrainer that TRL had, version 1.12, in an environment of its own.

`python -m benchmarks.ppo` writes benchmarks/results/ppo.json: episodes per second, peak memory, our time by rollout,
scoring and update, and the share of the matmul peak that these reach. `--value-kinds` writes ppo-value.json: ours
with a separate value function and with a head on the policy's decoder. `--device=cuda` runs models of 0.5B and 1.5B
with random weights and writes ppo-cuda.json.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks.fill_tables import PARTS
from benchmarks.harness import Command, Found, Result, Work, run_side, say, scratch_folder, take_turns
from benchmarks.ppo_work import MICRO_BATCH_SIZES, OURS, WORKLOADS, Workload, goals
from benchmarks.precisions import first_run, not_run

SIDES_MODULE = "benchmarks.ppo_sides"
PRECISIONS = ("bf16", "fp32")
RANDOM_MODELS = ("0.5B", "1.5B")
VALUE_KINDS = ("reward_model", "policy_trunk")
RUNS = {"cpu": {"trl": (1, 1), "ours": (1, 2)}, "cuda": {"trl": (1, 3), "ours": (2, 5)}}
"""Device -> side -> warm-up iterations, timed iterations."""
SAME = (
    "the demo's first prompts, every response of full length (nothing stops it), temperature 1; LoRA r=16 on every "
    "linear layer of the adapted layers; one AdamW step an inner epoch, over micro-batches of `micro_batch_size` "
    "sequences (ours: of as many tokens as that many average ones have, but for the 1,024 that a CPU takes at most), "
    "the size with which the side is fastest; each run in a process of its own with iterations before the clock; "
    "precision is the faster of float32 and bfloat16 for each side, tried once each (in an earlier measurement where "
    "`seconds_in` is empty; those in `not_run` are not tried); memory is the peak of the whole process, of the "
    "GPU where one is used"
)
WAYS = {
    "ours": "PPOModule in Lightning's Trainer with the loggers of `lit-instruct ppo fit`; SFT model and reward model "
    "are adapters on one base, the value function a third one that starts as a copy of the reward model (the default)",
    "ours_top_third": "the same with LoRA on the uppermost third of the layers in SFT model, reward model and policy: "
    "the output of the others is computed once per iteration (trunk cache)",
    "trl": "PPOTrainer.train() of TRL 1.12 with peft_config, as its example script builds it: LoRA on all layers of "
    "the policy, which is the reference with the adapter off; value and reward model are whole models, and the value "
    "model is trained whole (it takes no adapter there)",
}


def work_of(options: Namespace, start: Mapping[str, Any], workload: Workload, side: str) -> Work:
    """Returns the work of one side, which begins with what is `prepared`, without its precision."""
    warmup, iterations = RUNS[options.device]["trl" if side == "trl" else "ours"]
    given = {name: start[name] for name in ("folder", "base_folder")}
    return given | {
        "side": side,
        "workload": asdict(workload),
        "top_layers": start["top_layers"].get(side, 0),
        "value": "reward_model",
        "micro_batch_size": min(options.micro_batch_size or MICRO_BATCH_SIZES[side], workload.episodes),
        "device": options.device,
        "warmup": 0 if options.quick else warmup,
        "iterations": 1 if options.quick else iterations,
    }


def in_best_precision(
    side: str, work: Work, run: Any, given: str | None = None, left_out: Iterable[str] = ()
) -> tuple[Work, dict[str, float]]:
    """Runs a side once in every precision; returns its work in the fastest, and the seconds per iteration of each.

    Nothing is tried where `given` is the precision that an earlier measurement found the fastest; those `left_out` are
    too slow here.
    """
    if given is not None:
        return work | {"dtype": given}, {}
    precisions = [dtype for dtype in PRECISIONS if dtype not in left_out]
    tries = {dtype: run(side, work | {"dtype": dtype})["seconds"] for dtype in precisions}
    return work | {"dtype": min(tries, key=tries.__getitem__)}, {name: round(tries[name], 2) for name in tries}


def compare(
    workload: Workload, tries: Mapping[str, dict[str, float]], runs: Mapping[str, Sequence[Result]]
) -> dict[str, Any]:
    """Returns the medians of a workload's `runs`, side -> results, and how ours compare with TRL's.

    `tries` are side -> precision -> seconds per iteration.
    """
    sides = {side: _medians(results) for side, results in runs.items()}
    for side, found in sides.items():
        found["precision"], found["micro_batch_size"] = runs[side][0]["dtype"], runs[side][0]["micro_batch_size"]
        found["seconds_in"] = tries[side]
        found["episodes_per_second"] = round(workload.episodes / found["seconds"], 3)
    return {"workload": asdict(workload), "sides": sides, "compared": _compared(workload, sides), "runs": dict(runs)}


def _medians(runs: Sequence[Result]) -> dict[str, Any]:
    """Side's figures: the median of each over the runs."""
    found: dict[str, Any] = {"seconds": round(median(run["seconds"] for run in runs), 3)}
    found["parts"] = {part: round(median(run[f"{part}_seconds"] for run in runs), 3) for part in PARTS}
    found["peak_gb"] = round(median(run["peak_memory_gb"] for run in runs), 2)
    if "of_peak" in runs[0]:
        names = ("gigaflop", "adapted_layers", "tokens_per_second")
        found |= {name: runs[0][name] for name in names}
        found["matmul_peak_gflops"] = round(median(run["matmul_peak_gflops"] for run in runs), 1)
        found["of_peak"] = {name: round(median(run["of_peak"][name] for run in runs), 3) for name in runs[0]["of_peak"]}
    return found


def _compared(workload: Workload, sides: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for side in OURS:
        if side in sides and "trl" in sides:
            ratio = sides["trl"]["seconds"] / sides[side]["seconds"]
            memory = sides[side]["peak_gb"] / sides["trl"]["peak_gb"]
            asked = goals(workload, side, ratio, memory, sides[side]["of_peak"])
            found[side] = {"ratio": round(ratio, 2), "memory_ratio": round(memory, 3), "goals": asked}
    return found


def compare_sides(options: Namespace, model: str) -> dict[str, Any]:
    """Lets the sides take turns on one model and returns workload -> `compare`."""
    workloads, left_out = _workloads(options), not_run(model, options.device) if options.dtype is None else {}
    works: dict[str, dict[str, Work]] = {}
    tries: dict[str, dict[str, dict[str, float]]] = {}
    with prepared(model, workloads.values()) as start:
        for name, workload in workloads.items():
            works[name], tries[name] = {}, {}
            for side in options.sides:
                work = work_of(options, start, workload, side)
                best, tries[name][side] = in_best_precision(side, work | {"warmup": 0}, _run, options.dtype, left_out)
                works[name][side] = best | {"warmup": work["warmup"]}
        runs = take_turns(works, options.repetitions, _run)
    found = {name: compare(workload, tries[name], runs[name]) for name, workload in workloads.items()}
    return {name: {**case, "not_run": left_out} for name, case in found.items()}


def compare_value_kinds(options: Namespace) -> dict[str, Any]:
    """Measures our sides with each of VALUE_KINDS, in bfloat16 unless --dtype says otherwise or it is too slow here."""
    workloads = _workloads(options)
    sides = [side for side in options.sides if side in OURS]
    works: dict[str, dict[str, Work]] = {}
    with prepared(options.base, workloads.values()) as start:
        for name, workload in workloads.items():
            for side in sides:
                work = work_of(options, start, workload, side) | {"dtype": options.dtype}
                works[f"{name}, {side}"] = {kind: work | {"value": kind} for kind in VALUE_KINDS}
        runs = take_turns(works, options.repetitions, lambda _, work: _run("", work))
    return {case: {kind: _medians(results) for kind, results in kinds.items()} for case, kinds in runs.items()}


def _workloads(options: Namespace) -> dict[str, Workload]:
    return {name: WORKLOADS[name].smaller() if options.quick else WORKLOADS[name] for name in options.workloads}


@contextmanager
def prepared(model: str, workloads: Iterable[Workload]) -> Iterator[dict[str, Any]]:
    """What all sides start from, of `ppo_sides.prepare`, in a folder that is deleted when the measurement ends."""
    episodes = max(workload.episodes for workload in workloads)
    with scratch_folder() as folder:
        work = {"folder": folder, "base": model, "thirds": OURS, "episodes": episodes}
        yield {"folder": folder, **run_side(SIDES_MODULE, "prepare", work)}


def missed(found: Mapping[str, dict[str, Any]]) -> list[str]:
    """Returns a line for each goal that was not reached."""
    return [
        f"missed: {workload}, {side}: {name}, goal {goal['goal']}"
        for workload, case in found.items()
        for side, compared in case["compared"].items()
        for name, goal in compared["goals"].items()
        if not goal["reached"]
    ]


def measure(options: Namespace) -> Found:
    """Measures both sides, or ours with each kind of value function."""
    results: dict[str, Any] = {"same": SAME, "ways": WAYS, "device": options.device}
    if options.value_kinds:
        options.dtype = options.dtype or first_run(options.base, device=options.device)
        results |= {"base": options.base, "precision": options.dtype, "cases": compare_value_kinds(options)}
        return Found(results, "ppo-value.json", ("ppo-value",))
    models = [options.base] if options.device == "cpu" else RANDOM_MODELS
    results["models"] = {model: compare_sides(options, model) for model in models}
    results["trl_side_versions"] = _trl_side_versions(results["models"])
    for found in results["models"].values():
        say(*missed(found), sep="\n")
    return Found(results, "ppo.json" if options.device == "cpu" else "ppo-cuda.json", ("ppo", "ppo-goals"))


def _trl_side_versions(models: Mapping[str, Mapping[str, dict[str, Any]]]) -> dict[str, str] | None:
    runs = [run for cases in models.values() for case in cases.values() for run in case["runs"].get("trl", ())]
    return runs[0]["versions"] if runs else None


def _run(side: str, work: Work) -> Result:
    """Runs a side in a process of its own."""
    if side == "trl":
        from benchmarks.ppo_sides import trl

        found = trl(**work)
    else:
        found = run_side(SIDES_MODULE, "ours", work)
    kind = "" if side else f", value {work['value']}"
    say(
        f"{Workload(**work['workload']).name}: {work['side']} in {work['dtype']}{kind}: "
        f"{found['seconds']:.2f} s per iteration, {found['peak_memory_gb']:.2f} GB"
    )
    return found | {"dtype": work["dtype"], "micro_batch_size": work["micro_batch_size"]}


OPTIONS = {
    "--device": {"choices": tuple(RUNS), "default": "cpu", "help": "cuda takes random models, not --base"},
    "--workloads": {"nargs": "+", "choices": tuple(WORKLOADS), "default": tuple(WORKLOADS)},
    "--sides": {"nargs": "+", "choices": ("trl", *OURS), "default": ("trl", *OURS)},
    "--micro_batch_size": {"type": int, "help": "sequences per forward; default: the fastest of each side"},
    "--value-kinds": {"action": "store_true", "help": "ours with each kind of value function, without TRL"},
    "--dtype": {"choices": PRECISIONS, "help": "of all sides; default: the faster one (--value-kinds: bf16)"},
}
QUICK = "small workloads, once"
main = Command("benchmarks.ppo", __doc__, measure, OPTIONS, repetitions=3, quick=QUICK, base=True)

if __name__ == "__main__":
    raise SystemExit(main())
