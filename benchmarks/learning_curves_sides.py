"""The processes of the learning curves: our PPO, and TRL 1.12's on the same models and prompts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import AutoConfig

from benchmarks.harness import peak_bytes, scratch_folder
from benchmarks.learning_curves_work import Run, Settings, run_of
from benchmarks.ppo_sides import PhaseClock, run_trl
from benchmarks.ppo_work import OURS
from benchmarks.training import PROMPTS, dtype, fit_ours, now
from data_modules.batching.sampling import EpochBatchSampler
from data_modules.prompts import PromptDataModule
from lit_instruct.evaluation.labelers import tone
from lit_instruct.handover import prompter_of, read_stage_of
from lit_instruct.models.assemble import merged_language_model, scoring_network
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.objective import KLOptions, ObjectiveOptions, ValueOptions
from lit_instruct.ppo.options import PPOMemoryOptions, PPOOptimizerOptions, RewardOptions
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.stages.ppo import PPOModule


class Curve(PhaseClock):
    """Notes what each iteration sampled and measured, and how long it took."""

    def __init__(self) -> None:
        super().__init__(never_stop=False)
        self.sampled_ids: list[list[list[int]]] = []
        self.metrics: list[dict[str, float]] = []
        self.row_numbers: list[list[int]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *more: Any) -> None:
        """Closes an iteration."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, *more)
        self.sampled_ids.append(self.responses)
        self.row_numbers.append(batch.row_number.tolist())
        names = ("reward", "kl", "response_length", "eos_share")
        self.metrics.append({name: float(trainer.callback_metrics[f"ppo/{name}"]) for name in names})
        self.began = now()


def train(side: str, seed: int, run: str, settings: dict[str, Any]) -> Run:
    """Returns the run of a side; TRL, like ours, is faster in bfloat16 if the CPU computes in it.

    Args:
        side: trl, or one of OURS.
        seed: of prompts and sampling.
        run: folder with the stages sft and rm.
        settings: of `Settings`.
    """
    given = Settings(**settings)
    if side == "trl":
        return trl(seed, run, given, "bf16" if dtype() == torch.bfloat16 else "fp32")
    return ours(side, seed, run, given)


def ours(side: str, seed: int, run: str, settings: Settings) -> Run:
    """Trains our PPO stage, one of OURS, and returns the run; see `train`."""
    layers = AutoConfig.from_pretrained(find_source(f"{run}/sft").base).num_hidden_layers
    part = OURS[side]
    module = PPOModule(
        base=f"{run}/sft",
        iterations=settings.iterations,
        lora=LoraOptions(r=settings.lora_r, top_layers=layers // part if part else 0),
        objective=ObjectiveOptions(inner_epochs=settings.inner_epochs, minibatches=settings.minibatches),
        kl=KLOptions(settings.kl_coef),
        reward=RewardOptions(f"{run}/rm", missing_eos_penalty=settings.missing_eos_penalty),
        value=ValueOptions("zero_head", learning_rate=settings.value_learning_rate),
        optimizer=PPOOptimizerOptions(
            learning_rate=settings.learning_rate, warmup_iterations=settings.warmup_iterations
        ),
        sampling=SamplingOptions(max_new_tokens=settings.response_tokens),
        memory=PPOMemoryOptions(micro_batch_size=settings.micro_batch_size),
        seed=seed,
    )
    data = prompts_of(settings, seed)
    curve = Curve()
    fit_ours(module, data, [curve], epochs=-1)
    labels = labelled(curve.sampled_ids, module.prompter)
    iterations = [
        {"seconds": times["seconds"], "labeler": label, **metrics}
        for times, label, metrics in zip(curve.iterations, labels, curve.metrics, strict=True)
    ]
    first_rows = [rows[0] for rows in curve.row_numbers]
    return run_of(side, seed, iterations, first_rows=first_rows, peak_memory_gb=round(peak_bytes() / 1e9, 2))


def trl(seed: int, run: str, settings: Settings, precision: str) -> Run:
    """Runs TRL's PPOTrainer on the merged models, in fp32 or bf16, and returns the run; see `train`."""
    prompter = prompter_of(find_source(f"{run}/sft"))
    with scratch_folder() as name:
        folder = Path(name)
        bias = merge(run, folder)
        rows, prompts = prompt_ids(settings, seed, prompter)
        (folder / "prompts.json").write_text(json.dumps(prompts))
        options = {"folder": str(folder), "settings": asdict(settings), "reward_bias": bias, "pad_id": prompter.pad_id}
        options |= {"dtype": precision, "device": "cpu", "seed": seed}
        steps = settings.iterations * settings.inner_epochs * settings.minibatches
        found = run_trl("curve.py", options, steps)
        sampled = json.loads((folder / "responses.json").read_text())
    responses = [[cut_after(ids, prompter.stop_ids) for ids in batch] for batch in sampled]
    labels = labelled(responses, prompter)
    iterations = []
    for times, label, batch in zip(found["iterations"], labels, responses, strict=True):
        ended = [ids[-1] in prompter.stop_ids for ids in batch]
        figures = {"response_length": mean(map(len, batch)), "eos_share": mean(ended)}
        iterations.append(times | figures | {"labeler": label})
        # What TRL logs as the score has lost the penalty already.
        iterations[-1]["reward"] += settings.missing_eos_penalty * (1 - figures["eos_share"])
    first_rows = rows[:: settings.batch_size]
    more = {"peak_memory_gb": round(found["peak_memory_gb"], 2), "versions": found["versions"]}
    return run_of("trl", seed, iterations, first_rows=first_rows, **more)


def merge(run: str, folder: Path) -> float:
    """Writes SFT and reward model of a run as Hugging Face folders policy/ and reward/, merged, in float32.

    Returns:
        The reward's bias.
    """
    sft, reward = find_source(f"{run}/sft"), find_source(f"{run}/rm")
    prompter = prompter_of(sft)
    merged_language_model(sft, torch.float32).save_pretrained(folder / "policy")
    scoring_network(reward, torch.float32, prompter.pad_id).merge_and_unload().save_pretrained(folder / "reward")
    prompter.tokenizer.save_pretrained(str(folder / "policy"))
    stage = read_stage_of(reward)
    return (stage.reward_bias if stage is not None else None) or 0.0


def prompts_of(settings: Settings, seed: int) -> PromptDataModule:
    """Returns the demo's training prompts."""
    return PromptDataModule(str(PROMPTS), validation_share=0.0, batch_size=settings.batch_size, seed=seed)


def prompt_ids(settings: Settings, seed: int, prompter: Prompter) -> tuple[list[int], list[list[int]]]:
    """Returns row numbers and token ids of the prompts of all iterations, as our loader serves them."""
    data = prompts_of(settings, seed)
    data.prompter = prompter
    data.setup()
    assert data.train_dataset is not None
    sampler = EpochBatchSampler(len(data.train_dataset), settings.batch_size, seed, drop_last=True)
    batches: list[list[int]] = []
    while len(batches) < settings.iterations:
        batches += sampler.batches(len(batches) // len(sampler))
    rows = [row for batch in batches[: settings.iterations] for row in batch]
    return rows, [item["ids"] for item in data.train_dataset.__getitems__(rows)]


def cut_after(ids: list[int], stop_ids: list[int]) -> list[int]:
    """Returns a response up to its first stop id, that included."""
    end = next((place for place, token in enumerate(ids) if token in stop_ids), len(ids) - 1)
    return ids[: end + 1]


def labelled(batches: list[list[list[int]]], prompter: Prompter) -> list[float]:
    """Returns the demo's labeler's mean score of each batch of responses."""
    return [mean(tone([("", prompter.decode(ids).strip()) for ids in batch])) for batch in batches]
