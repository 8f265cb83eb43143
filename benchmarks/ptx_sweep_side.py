"""A process of the PPO-ptx sweep: the demo's recipe with one weight of the pretraining mix."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from benchmarks import ROOT
from benchmarks.harness import scratch_folder
from benchmarks.training import dtype, trainer_of
from data_modules.batching.pretraining import PretrainingText
from data_modules.prompts import PromptDataModule
from lit_instruct.stages.ppo import PPOModule

RECIPE = ROOT / "recipes" / "demo" / "ppo.yaml"
BLOCK = 64
ROWS = 16
LABELER = "lit_instruct.evaluation.labelers.tone"


def train(run: str, folder: str, ptx_coef: float, iterations: int, words: list[str]) -> dict[str, Any]:
    """Trains, and returns the measures before and after.

    Args:
        run: folder with the stages sft and rm.
        folder: with train.txt and held_out.txt.
        ptx_coef: coefficient of the pretraining loss.
        iterations: of PPO.
        words: more options, such as --data.limit=64.
    """
    given = [f"--config={RECIPE}", f"--model.base={run}/sft", f"--model.reward.model={run}/rm"]
    given += [f"--model.selection.labeler={LABELER}", f"--model.iterations={iterations}"]
    given += [f"--model.pretraining.ptx_coef={ptx_coef}", f"--data.pretraining_block={BLOCK}"]
    given += [f"--data.pretraining_path={folder}/train.txt"]
    module, data = from_recipe([*given, *words])
    with scratch_folder() as scratch:
        limits = {"max_epochs": -1, "val_check_interval": iterations + 1, "check_val_every_n_epoch": None}
        trainer = trainer_of(Path(scratch), [], dtype(), accelerator="cpu", **limits)
        before = measure(trainer, module, data, folder)
        began = time.perf_counter()
        trainer.fit(module, datamodule=data)
        seconds = (time.perf_counter() - began) / iterations
        after = measure(trainer, module, data, folder)
    return {"ptx_coef": ptx_coef, "before": before, "after": after, "seconds_per_iteration": round(seconds, 2)}


def from_recipe(words: list[str]) -> tuple[PPOModule, PromptDataModule]:
    """Returns module and data of a PPO recipe, read as `lit-instruct ppo` reads it, the Trainer's options aside."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(PPOModule, "model")
    parser.add_class_arguments(PromptDataModule, "data")
    parser.add_argument("--trainer", type=dict)
    made = parser.instantiate_classes(parser.parse_args(words))
    return made.model, made.data


def measure(trainer: Any, module: PPOModule, data: PromptDataModule, folder: str) -> dict[str, float]:
    """Returns the policy's loss on the held-out text, and reward, labeler and KL of the held-out prompts."""
    (found,) = trainer.validate(module, datamodule=data, verbose=False)
    figures = {name: round(float(found[f"val/{name}"]), 4) for name in ("reward", "labeler", "kl")}
    return {"pretraining_loss": round(held_out_loss(module, f"{folder}/held_out.txt"), 4), **figures}


@torch.no_grad()
def held_out_loss(module: PPOModule, path: str) -> float:
    """Returns the policy's mean next-token loss on a text, in nats."""
    blocks, roles = PretrainingText(path, module.prompter, BLOCK).blocks.long(), module.roles
    total = 0.0
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype() == torch.bfloat16):
        for part in blocks.split(ROWS):
            hidden = roles.hidden("policy", part, torch.ones_like(part, dtype=torch.bool))
            targets = part[:, 1:].flatten()
            found = roles.token_log_probs("policy", hidden[:, :-1].flatten(0, 1), targets)
            total -= float(found.log_probs.sum())
    return total / blocks[:, 1:].numel()
