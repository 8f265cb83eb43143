"""Runs every GPU recipe for a few steps with random weights of the real shape: benchmarks/results/gpu-*.json.

Needs a CUDA device and no network. A recipe's base is a model of its shape with random weights, quantised as the recipe
says; rows have the full length that it allows. PyTorch's allocator is limited to the card's size less 1 GB, which is
left for memory outside the allocator: the driver's context, libraries' workspaces and the pages of paged optimizers.
That is the memory in use on the device less what the allocator holds, and counts against the card too.

For each stage it writes the peak of allocated memory, the memory outside, tokens/s, seconds per step and the share of
the device's peak bfloat16 throughput that the model's own work reaches (MFU), beside what the plan predicts; `python
recipes/fill_catalogue.py` fills them into the catalogue. The paths that only CUDA has (bfloat16 by autocast, attention
kernels, fused head, compiled masks, rewards of packed responses) run on the way; --paths first compares them with the
plain ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import ROOT
from benchmarks.gpu_paths import compare_paths
from benchmarks.harness import write_results
from benchmarks.random_models import write_model, write_rows
from lit_instruct.cli import main as command_line
from lit_instruct.commands.plan import plan_of, read_arguments
from lit_instruct.planning.named import named_config
from lit_instruct.planning.plan import Plan
from lit_instruct.planning.rates import file_name
from lit_instruct.planning.table import GIB
from lit_instruct.planning.work import MOST_RESPONSES

RECIPES = ROOT / "recipes"
STAGES = ("sft", "rm", "ppo")
STEPS = 3
"""Optimizer steps of SFT and reward model, or iterations of PPO; the first, which warms up, is not timed."""
LEFT = GIB
"""Reserved for memory outside PyTorch's allocator."""
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "RTX 4090": 165e12, "RTX 3090": 71e12, "L4": 121e12}
"""Dense bfloat16 FLOP/s by a part of the device's name, as the vendors state them."""


def recipes() -> list[str]:
    """Returns the recipes for one card."""
    return sorted(path.parent.name for path in RECIPES.glob("gpu-*/sft.yaml"))


def words_of(recipe: str, stage: str, base: Path, data: Path, run: Path) -> list[str]:
    """Returns the options of a stage: the recipe's, with another base, data, length and run folder."""
    steps = ["--model.iterations=3"] if stage == "ppo" else [f"--trainer.max_steps={STEPS}"]
    return [
        f"--config={RECIPES / recipe / stage}.yaml",
        f"--run={run}",
        f"--data.path={data}",
        "--data.validation_share=0",
        "--check_memory=false",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.callbacks+=benchmarks.gpu_work.DeviceWork",
        *([f"--model.base={base}"] if stage == "sft" else []),
        *steps,
    ]


def rows_needed(plan: Plan) -> int:
    """Returns how many rows STEPS steps need."""
    if plan.work.rollouts is not None:
        return plan.work.rollouts.kept_rows * plan.work.processes
    responses = MOST_RESPONSES if plan.stage == "rm" else 1
    return STEPS * -(-plan.work.rows * plan.work.passes // responses)


def planned(recipe: str, stage: str) -> Plan:
    """Returns the plan of a stage of a recipe, for the card that it names."""
    return plan_of(read_arguments([f"--config={RECIPES / recipe / stage}.yaml"]))


def check_stage(recipe: str, stage: str, base: Path, folder: Path) -> dict[str, Any]:
    """Runs a stage in this process, its allocator limited to the card; returns measurement and plan."""
    from benchmarks.gpu_work import DeviceWork

    plan = planned(recipe, stage)
    assert plan.limit is not None
    device = torch.cuda.get_device_properties(0)
    torch.cuda.set_per_process_memory_fraction(min(1.0, (plan.limit - LEFT) / device.total_memory))
    length = plan.work.rollouts.prompt if plan.work.rollouts is not None else plan.work.length
    data = write_rows(folder / f"{stage}.jsonl", stage, rows_needed(plan), length)
    words = words_of(recipe, stage, base, data, folder / "run")
    code = command_line([stage, "fit", *words])
    found = DeviceWork.result
    measured = {"exit_code": code, "planned_bytes": plan.memory.allocated, "card_bytes": plan.limit}
    if code != 0 or not found:
        return measured
    tokens = found["tokens"] / found["steps"]
    speed = tokens / found["seconds_per_step"]
    return measured | {
        "peak_bytes": found["allocated"],
        "outside_bytes": found["outside"],
        "within_the_card": found["reserved"] + found["outside"] <= plan.limit,
        "planned / measured": round(plan.memory.allocated / found["allocated"], 3),
        "seconds_per_step": round(found["seconds_per_step"], 3),
        "tokens_per_second": round(speed, 1),
        "mfu": mfu(plan, speed, device.name),
    }


def mfu(plan: Plan, tokens_per_second: float, device: str) -> float | None:
    """Returns the share of the device's peak that a stage's own work reaches (MFU); None for an unknown device.

    A token's forward pass takes 2 operations per weight, its backward pass as many through frozen weights and twice as
    many through trained ones. PPO reads a token once to sample it, four times to score it and twice to learn.
    """
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in device), None)
    if peak is None:
        return None
    passes = 4 if plan.work.lora is not None else 6
    if plan.work.rollouts is not None:
        passes = 2 * passes + 2 * 5
    return round(passes * plan.work.model.parameters * tokens_per_second / peak, 4)


def check_recipe(recipe: str) -> dict[str, Any]:
    """Runs the stages of a recipe, each in a process of its own."""
    described = named_config(planned(recipe, "sft").work.model.name)
    assert described is not None, recipe
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = write_model(folder / "base", described, torch.bfloat16, "cuda")
        torch.cuda.empty_cache()
        return {stage: _in_process(recipe, stage, base, folder) for stage in STAGES}


def _in_process(recipe: str, stage: str, base: Path, folder: Path) -> dict[str, Any]:
    work = json.dumps([recipe, stage, str(base), str(folder)])
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--work", work]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr[-2000:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found if found["exit_code"] == 0 else found | {"error": done.stderr[-2000:]}


def main() -> int:
    """Runs the check; returns 1 if a stage failed or exceeded its card, 2 without a CUDA device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", action="append", choices=recipes(), help="only this one; can be repeated")
    parser.add_argument("--paths", action="store_true", help="compare CUDA's own paths with the plain ones first")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu-check: no CUDA device here; run it on a machine that has one", file=sys.stderr)
        return 2
    if options.work:
        recipe, stage, base, folder = json.loads(options.work)
        print("\n" + json.dumps(check_stage(recipe, stage, Path(base), Path(folder))))
        return 0
    if options.paths:
        write_results("gpu-paths.json", compare_paths())
    good = True
    for recipe in options.recipe or recipes():
        stages = check_recipe(recipe)
        print(json.dumps({recipe: stages}, indent=2), flush=True)
        good &= all(stage.get("within_the_card", False) for stage in stages.values())
        write_results(file_name(recipe), {"recipe": recipe, "steps": STEPS, "stages": stages})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
