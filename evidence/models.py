"""The models of the demo's recipe, one set for each seed, that several findings measure.

With `--source=hub` the same recipe trains on dialogues of HH-RLHF.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from evidence import ROOT, hub, questions
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


DATA = {
    "sft": {"path": "demonstrations_training", "validation_path": "demonstrations_validation"},
    "rm": {
        "path": "ranked_training",
        "validation_path": "ranked_validation",
        "demonstrations_path": "demonstrations_validation",
    },
    "ppo": {"path": "prompts_training", "validation_path": "prompts_validation"},
}
"""Stage -> option of --data -> file of `hub.dialogues`."""


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
    run, start = _run(context, seed), sft(context, seed)
    mixed = run.with_name(f"{run.name}-ptx")
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
    return context.runs / f"models-{'hub-' if context.source == 'hub' else ''}{seed}"


def _given(context: Context, stage: str, seed: int) -> list[str]:
    return [f"--seed_everything={seed}", *_data(context, stage), *(QUICK[stage] if context.quick else ())]


def _data(context: Context, stage: str) -> list[str]:
    """Where rows come from, if not from the recipe."""
    if context.source == "packages":
        return []
    folder = hub.dialogues(context.runs / hub.FOLDER, hub.QUICK if context.quick else hub.DIALOGUES)
    more = ["--data.limit=null"] if stage == "rm" else []
    return [f"--data.{option}={folder / name}.jsonl" for option, name in DATA[stage].items()] + more
