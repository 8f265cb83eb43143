"""How close `lit-instruct plan` comes to the memory that a stage takes on a CPU: benchmarks/results/plan.json.

    python -m benchmarks.plan [--quick]

Models with random weights of three sizes are trained for a few steps on rows of full length; what the process grows by
is compared with the plan. Each is measured in a process of its own, after a small training that loads what any training
loads; a large one would leave behind memory that the measured training then reuses. glibc is told to return large
blocks at once, because by default it keeps them.
"""

from __future__ import annotations

import ctypes
import gc
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.harness import Command, Found, Result, resident_bytes, run_side, say, scratch_folder
from benchmarks.plan_work import Peak
from benchmarks.random_models import llama, write_model, write_rows
from lit_instruct.cli import main as command_line

STAGES = ("sft", "rm", "ppo")
SIZES = {"7m": (256, 704, 6, 4), "18m": (384, 1056, 8, 6), "30m": (512, 1408, 8, 8)}
"""name -> hidden size, intermediate size, layers, attention heads."""
WARM_UP = (64, 128, 2, 4)
WARM_UP_OPTIONS = ("--model.dtype=float32",)
"""In bfloat16 it would fill the cache of compiled products, so that the measured training would not grow it."""
VOCABULARY = 8192
LENGTH = 256
WITHIN = 0.15
"""Largest relative difference of plan and measurement: the project's own target, set before measuring."""
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
TWO_STEPS = [f"--data.max_length={LENGTH}", "--trainer.max_steps=2"]
OPTIONS = {
    "sft": [*TWO_STEPS, "--data.batch_size=4"],
    "rm": [*TWO_STEPS, "--data.batch_size=2", "--model.max_tokens=1024"],
    "ppo": [
        "--data.batch_size=8",
        "--model.objective.minibatches=2",
        "--model.memory.micro_batch_size=4",
        "--model.memory.generation_batch_size=8",
        f"--model.sampling.max_new_tokens={LENGTH // 2}",
        f"--data.max_prompt_length={LENGTH // 2}",
        "--model.iterations=1",
        "--model.reward.function=benchmarks.plan_work.length_of",
        "--trainer.max_epochs=1",
    ],
}


def described(size: tuple[int, int, int, int]) -> dict[str, Any]:
    """Returns the configuration of a Llama of a size."""
    return llama(*size, vocab_size=VOCABULARY, max_position_embeddings=4 * LENGTH, tie_word_embeddings=True)


def words_of(stage: str, model: Path, rows: Path, more: list[str]) -> list[str]:
    """Returns the options of a training of a few steps."""
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.logger=false", "--trainer.accelerator=cpu"]
    data = [f"--data.path={rows}", "--data.validation_share=0"]
    return [f"--model.base={model}", *data, *quiet, *OPTIONS[stage], *more]


def grown_by(stage: str, size: tuple[int, int, int, int], more: list[str], folder: Path) -> int:
    """Trains for a few steps; returns by how many bytes the peak of the process exceeds what it held before."""
    model = write_model(folder / "model", described(size))
    rows = write_rows(folder / f"{stage}.jsonl", stage, 8, LENGTH // 2 if stage == "ppo" else LENGTH)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident_bytes()
    words = [*words_of(stage, model, rows, more), "--run", str(folder / "run")]
    if command_line([stage, "fit", *words, "--trainer.callbacks+=benchmarks.plan_work.Peak"]) != 0:
        raise RuntimeError(f"{stage} failed")
    return Peak.found - before


def predicted(stage: str, size: tuple[int, int, int, int], more: list[str], folder: Path) -> int:
    """Returns the peak that the plan predicts for the model that `grown_by` wrote."""
    from lit_instruct.commands.plan import stage_options
    from lit_instruct.planning.options import base_of
    from lit_instruct.planning.plan import make_plan

    options = stage_options(stage, words_of(stage, folder / "model", folder / f"{stage}.jsonl", more))
    return make_plan(stage, options, base_of(options), "cpu", None).memory.peak


def compare(stage: str, size: str, more: list[str]) -> dict[str, float]:
    """Measures and plans a stage with a model of a size, in this process."""
    with scratch_folder() as scratch:
        grown_by(stage, WARM_UP, [*more, *WARM_UP_OPTIONS], Path(scratch) / "warm")
    with scratch_folder() as scratch:
        grown = grown_by(stage, SIZES[size], more, Path(scratch))
        planned = predicted(stage, SIZES[size], more, Path(scratch))
    return {"measured": grown, "planned": planned, "planned / measured": round(planned / grown, 3)}


def in_process(stage: str, size: str, more: list[str]) -> Result:
    """Runs `compare` in a process of its own."""
    return run_side("benchmarks.plan", "compare", {"stage": stage, "size": size, "more": more}, MALLOC)


CASES = {
    "float32": ["--model.dtype=float32"],
    "bfloat16": ["--model.dtype=bfloat16"],
    "float32, gradient checkpointing": ["--model.dtype=float32", "--model.memory.gradient_checkpointing=true"],
    "4bit": ["--model.dtype=float32", "--model.quantize=4bit"],
    "float32, all weights": ["--model.dtype=float32", "--model.lora=null"],
}


def measure(options: Namespace) -> Found:
    """Measures and plans all cases; the exit status is 1 if the two differ by more than WITHIN."""
    cases = {"float32": CASES["float32"]} if options.quick else CASES
    sizes = list(SIZES)[: 1 if options.quick else None]
    results = {
        case: {stage: {size: in_process(stage, size, more) for size in sizes} for stage in STAGES}
        for case, more in cases.items()
    }
    sides = [side for stages in results.values() for found in stages.values() for side in found.values()]
    worst = max(abs(side["planned / measured"] - 1) for side in sides)
    say(f"largest difference: {worst:.1%}")
    content = {"length": LENGTH, "largest_difference": round(worst, 3), "cases": results}
    return Found(content, "plan.json", ("plan",), code=0 if worst <= WITHIN else 1)


main = Command("benchmarks.plan", __doc__, measure, quick="float32 and the smallest size alone")

if __name__ == "__main__":
    raise SystemExit(main())
