"""The models of the demo's recipe, one set for each seed, that several findings measure."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from evidence import ROOT, questions
from evidence.context import Context
from evidence.stages import run_stage

RECIPE = ROOT / "recipes/demo"
PTX = ("--model.pretraining.ptx_coef=0.1", "--model.pretraining.ptx_batch_ratio=0.5")
SMALL = ("--model.lora.top_layers=2",)
"""Options of every stage with --quick."""
QUICK = {
    "sft": (*SMALL, "--data.limit=16"),
    "rm": (*SMALL, "--data.limit=8"),
    "ppo": (
        *SMALL,
        "--model.iterations=2",
        "--model.sampling.max_new_tokens=12",
        "--data.batch_size=4",
        "--data.validation_limit=4",
        "--trainer.val_check_interval=2",
    ),
}


class Models(NamedTuple):
    """Stage folders of a seed."""

    base: str
    """Name of the model that SFT starts from."""
    sft: Path
    rm: Path
    ppo: Path
    ptx: Path
    """PPO with the pretraining mix."""


def sft(context: Context, seed: int) -> Path:
    """Returns the SFT stage of a seed, trained if it is missing."""
    run = _run(context, seed)
    run_stage("sft", RECIPE / "sft.yaml", run, [f"--model.base={context.base}", *_given(context, "sft", seed)])
    return run / "sft"


def trained(context: Context, seed: int) -> Models:
    """Returns all models of a seed; those that are missing are trained."""
    run, mixed, start = _run(context, seed), context.runs / f"models-{seed}-ptx", sft(context, seed)
    run_stage("rm", RECIPE / "rm.yaml", run, [f"--model.base={start}", *_given(context, "rm", seed)])
    given = [f"--model.base={start}", f"--model.reward.model={run / 'rm'}", *_given(context, "ppo", seed)]
    run_stage("ppo", RECIPE / "ppo.yaml", run, given)
    run_stage("ppo", RECIPE / "ppo.yaml", mixed, [*given, *PTX, f"--data.pretraining_path={_passages(context)}"])
    return Models(context.base, start, run / "rm", run / "ppo", mixed / "ppo")


def _passages(context: Context) -> Path:
    """Text of the pretraining mix: passages of BoolQ, of which the finding tax holds others out."""
    if context.quick:
        return RECIPE / "data/pretraining.txt"  # needs no network
    folder = context.runs / questions.FOLDER
    questions.write(folder)
    return folder / questions.TRAINING


def _run(context: Context, seed: int) -> Path:
    return context.runs / f"models-{seed}"


def _given(context: Context, stage: str, seed: int) -> list[str]:
    return [f"--seed_everything={seed}", *(QUICK[stage] if context.quick else ())]
