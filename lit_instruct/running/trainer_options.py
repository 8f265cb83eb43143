"""Options of Lightning's Trainer that a stage cannot honour are refused before anything is loaded."""

from __future__ import annotations

from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.running.processes import FSDP2, NO_DEEPSPEED

LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "log_every_n_steps": 0, "gradient_clip_val": 0}
"""Least value of options that Lightning takes without a check."""
OWN_AVERAGE = "its average of the weights is not handed over; PPO has one of its own, --model.optimizer.ema_decay"
REFUSED = {
    "LearningRateFinder": "it looks for an attribute that the stages do not have; give --model.optimizer.learning_rate",
    "BatchSizeFinder": "it changes the training that it tries sizes for; give --data.batch_size, and `lit-instruct "
    "plan` says what fits",
    "StochasticWeightAveraging": OWN_AVERAGE,
    "WeightAveraging": OWN_AVERAGE,
    "EMAWeightAveraging": OWN_AVERAGE,
    "BackboneFinetuning": "the stages have no backbone; --model.lora.top_layers trains the upper layers alone",
    "ModelPruning": "pruned weights are not handed over; leave it out",
}
"""Callbacks that cannot work in any stage."""
SEEDED = "every run has a seed, which its result records; give a number"
FULL = ("32-true", "32", 32, None)
"""Values of --trainer.precision for float32."""
USUAL = {"accumulate_grad_batches": 1}
"""Lightning's defaults other than null."""
IN_PPO = {
    "gradient_clip_val": "PPO clips by itself, policy and value each; give --model.optimizer.max_grad_norm",
    "gradient_clip_algorithm": "PPO clips by norm; give --model.optimizer.max_grad_norm",
    "accumulate_grad_batches": "PPO takes its own optimizer steps; give --model.objective.minibatches (steps per pass) "
    "and --model.memory.micro_batch_size (sequences per forward pass)",
}
"""Options of automatic optimization, with PPO's own."""


def check_trainer_options(stage: str, options: Any) -> None:
    """Refuses options of the Trainer and callbacks that a stage cannot honour.

    Args:
        stage: sft, rm or ppo.
        options: of the Trainer, as parsed.

    Raises:
        UserError: it says what to give instead.
    """
    for name, least in LEAST.items():
        value = options.get(name)
        if isinstance(value, int | float) and value < least:
            raise UserError(f"--trainer.{name}={value}: must be at least {least}")
    if options.get("barebones"):
        raise UserError("--trainer.barebones: it switches off what a stage needs (logs and checkpoints); leave it out")
    if options.get("enable_checkpointing") is False:
        raise UserError(
            "--trainer.enable_checkpointing=false: a stage hands over its best checkpoint and resumes from the last; "
            "leave it out"
        )
    if (place := options.get("default_root_dir")) is not None:
        raise UserError(
            f"--trainer.default_root_dir={place}: all files of a stage are in --run; give --run={place}, or no place"
        )
    if "deepspeed" in str(options.get("strategy")).lower():  # before Lightning asks for the package
        raise UserError(f"--trainer.strategy: {NO_DEEPSPEED}")
    if options.get("strategy") == FSDP2 and (precision := options.get("precision")) not in FULL:
        raise UserError(
            f"--trainer.precision={precision}: fsdp2 casts weights to --model.dtype itself; leave it out, or give "
            "--model.dtype"
        )
    for name, advice in IN_PPO.items() if stage == "ppo" else ():
        if options.get(name) not in (None, USUAL.get(name)):
            raise UserError(f"--trainer.{name}={options.get(name)}: {advice}")
    for callback in as_list(options.get("callbacks")):
        name = str(callback.get("class_path", "")).rpartition(".")[2]
        if name in REFUSED:
            raise UserError(f"--trainer.callbacks={name}: {REFUSED[name]}")
        if name == "GradientAccumulationScheduler" and stage == "ppo":
            raise UserError(f"--trainer.callbacks={name}: {IN_PPO['accumulate_grad_batches']}")


def seed_of(given: int | bool) -> int:
    """Returns the seed of model and data; False, which seeds nothing, is 0."""
    if given is True:
        raise UserError(f"--seed_everything=true: {SEEDED}")
    return int(given)


def as_list(given: Any) -> list[Any]:
    """Returns the callbacks, loggers or plugins of a Trainer, of which one may be given without a list."""
    return [] if given is None else given if isinstance(given, list) else [given]
