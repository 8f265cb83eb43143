"""Models trained on critics' sentences: one SFT model, and for each seed a reward model and policies."""

from __future__ import annotations

from pathlib import Path

from evidence import ROOT, reviews
from evidence.context import Context
from evidence.stages import run_stage

RECIPE = ROOT / "recipes/evidence/reviews"
NO_PENALTY = ("--model.kl.coef=0", "--model.kl.budget=null")
QUICK = {
    "sft": ("--model.lora.top_layers=2", "--data.limit=16", "--trainer.limit_val_batches=1"),
    "rm": ("--model.lora.top_layers=2", "--trainer.limit_val_batches=1"),
    "ppo": (
        "--model.lora.top_layers=2",
        "--model.iterations=2",
        "--model.sampling.max_new_tokens=12",
        "--data.batch_size=4",
        "--data.validation_limit=4",
        "--trainer.val_check_interval=2",
    ),
}


def data(context: Context) -> Path:
    """Returns the folder of the rows, which are written if they are missing."""
    folder = context.runs / "data/reviews"
    reviews.write(folder, reviews.packaged())
    return folder


def sft(context: Context) -> Path:
    """Returns the SFT stage, which all seeds share; trained if it is missing."""
    run = context.runs / "reviews"
    paths = _paths(context, path="demonstrations_training", validation_path="demonstrations_validation")
    run_stage("sft", RECIPE / "sft.yaml", run, [f"--model.base={context.base}", *paths, *_quick(context, "sft")])
    return run / "sft"


def reward_model(context: Context, seed: int, comparisons: int) -> Path:
    """Returns a reward model from the first comparisons, which starts from the SFT model; trained if it is missing."""
    run = context.runs / f"reviews-{comparisons}-{seed}"
    paths = _paths(
        context,
        path="ranked_training",
        validation_path="ranked_validation",
        demonstrations_path="demonstrations_validation",
    )
    given = [f"--model.base={sft(context)}", f"--data.limit={comparisons}", f"--seed_everything={seed}", *paths]
    run_stage("rm", RECIPE / "rm.yaml", run, [*given, *_quick(context, "rm")])
    return run / "rm"


def policy(context: Context, seed: int, reward: Path, penalty: bool) -> Path:
    """Returns a policy, trained if it is missing.

    Args:
        context: of the finding.
        seed: of the training.
        reward: stage folder of its reward model.
        penalty: whether there is a KL penalty, and a KL at which the training ends; else it takes all iterations.
    """
    run = context.runs / f"reviews-{'kl' if penalty else 'no-kl'}-{seed}"
    paths = _paths(context, path="prompts_training", validation_path="prompts_validation")
    given = [f"--model.base={sft(context)}", f"--model.reward.model={reward}", f"--seed_everything={seed}", *paths]
    more = () if penalty else NO_PENALTY
    run_stage("ppo", RECIPE / "ppo.yaml", run, [*given, *more, *_quick(context, "ppo")])
    return run / "ppo"


def _paths(context: Context, **names: str) -> list[str]:
    folder = data(context)
    return [f"--data.{option}={folder / name}.jsonl" for option, name in names.items()]


def _quick(context: Context, stage: str) -> tuple[str, ...]:
    return QUICK[stage] if context.quick else ()
