"""The TRL 1.12 side of `make bench-ppo`: seconds per iteration and peak memory of its PPOTrainer, as JSON.

Runs in the side environment of environment.sh, which knows nothing of lit-instruct:

    .venv-trl112/bin/python benchmarks/trl_side/ppo.py --base FOLDER --prompts prompts.json --response_length 24

FOLDER is a Hugging Face folder (`python -m lit_instruct.models.embedded` prints that of the embedded base);
prompts.json is a list of lists of token ids, as many as an iteration has episodes. The policy has a LoRA adapter and,
without it, is the reference; value and reward model are copies of the base with a scalar head, the value model trained
whole, as in TRL's own example script. Responses are of full length: nothing stops them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}

import numpy as np
import peft
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer
from trl.experimental.ppo import ppo_trainer as trl_ppo

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Clock(TrainerCallback):
    """Notes when each part of an iteration ends."""

    def __init__(self) -> None:
        self.iterations: list[dict[str, float]] = []
        self.marks: dict[str, float] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Starts."""
        self.marks = {"began": time.perf_counter()}

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Ends an iteration."""
        marks, now = self.marks, self.now()
        self.iterations.append(
            {
                "seconds": now - marks["began"],
                "rollout_seconds": marks["sampled"] - marks["began"],
                "scoring_seconds": marks["scored"] - marks["sampled"],
                "update_seconds": now - marks["scored"],
            }
        )
        self.marks = {"began": now}

    def after_sampling(self, generation: Any) -> Any:
        """Wraps `batch_generation`, which ends the rollout."""

        def timed(*args: Any, **more: Any) -> Any:
            result = generation(*args, **more)
            self.marks["sampled"] = self.now()
            return result

        return timed

    def before_update(self, permutation: Any) -> Any:
        """Wraps the permutation that opens each inner epoch; the first one ends the scoring."""

        def timed(*args: Any) -> Any:
            self.marks.setdefault("scored", self.now())
            return permutation(*args)

        return timed

    @staticmethod
    def now() -> float:
        """Seconds, after all work on the GPU is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def arguments() -> argparse.Namespace:
    """The workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="Hugging Face folder")
    parser.add_argument("--prompts", required=True, type=Path, help="JSON file: a list of lists of token ids")
    parser.add_argument("--response_length", required=True, type=int)
    parser.add_argument("--inner_epochs", type=int, default=1)
    parser.add_argument("--micro_batch_size", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=1, help="timed")
    parser.add_argument("--warmup", type=int, default=0, help="iterations before the timed ones")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--lora_r", type=int, default=16)
    parser.add_argument("--lora_layers", type=int, default=0, help="topmost layers adapted; 0: all")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    return parser.parse_args()


def adapter(given: argparse.Namespace, layers: int) -> LoraConfig:
    """LoRA on every linear layer but the output, of all decoder layers or the topmost."""
    chosen = list(range(layers - given.lora_layers, layers)) if given.lora_layers else None
    return LoraConfig(
        r=given.lora_r,
        lora_alpha=2 * given.lora_r,
        target_modules="all-linear",
        layers_to_transform=chosen,
        task_type="CAUSAL_LM",
    )


def trainer_of(given: argparse.Namespace, prompts: list[list[int]], folder: str, clock: Clock) -> PPOTrainer:
    """TRL's trainer on the workload."""
    tokenizer = AutoTokenizer.from_pretrained(given.base, padding_side="left")
    torch.manual_seed(given.seed)
    load = {"dtype": DTYPES[given.dtype]}
    policy = AutoModelForCausalLM.from_pretrained(given.base, **load)
    scalar = {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id, **load}
    value, reward = (AutoModelForSequenceClassification.from_pretrained(given.base, **scalar) for _ in range(2))
    iterations = given.warmup + given.iterations
    config = PPOConfig(
        output_dir=folder,
        report_to=[],
        use_cpu=given.device == "cpu",
        bf16=given.dtype == "bf16",
        gradient_checkpointing=False,
        save_strategy="no",
        num_sample_generations=0,
        disable_tqdm=True,
        lr_scheduler_type="constant",
        learning_rate=given.learning_rate,
        temperature=given.temperature,
        response_length=given.response_length,
        local_rollout_forward_batch_size=len(prompts),
        per_device_train_batch_size=given.micro_batch_size,
        gradient_accumulation_steps=len(prompts) // given.micro_batch_size,
        num_ppo_epochs=given.inner_epochs,
        total_episodes=len(prompts) * iterations,
        seed=given.seed,
    )
    # On the last batch of a pass TRL steps on every micro-batch: with one batch more than needed there is none.
    rows = Dataset.from_dict({"input_ids": prompts * (iterations + 1)})
    peft_config = adapter(given, policy.config.num_hidden_layers)
    trainer = PPOTrainer(
        config, tokenizer, policy, None, reward, rows, value, peft_config=peft_config, callbacks=[clock]
    )
    trainer.remove_callback(transformers.PrinterCallback)
    keep_order(trainer)
    return trainer


def keep_order(trainer: PPOTrainer) -> None:
    """Serves the prompts in the order they came in: shuffled, a batch might hold one of them twice."""
    size, collate = trainer.args.local_batch_size, trainer.data_collator
    loader = DataLoader(trainer.train_dataset, batch_size=size, collate_fn=collate, drop_last=True)
    trainer.dataloader = trainer.accelerator.prepare(loader)


def optimizer_steps(trainer: PPOTrainer) -> int:
    """How many steps the optimizer has taken."""
    return int(max(state["step"] for state in trainer.optimizer.state.values()))


def versions() -> dict[str, str]:
    """Of the packages that matter."""
    return {part.__name__: part.__version__ for part in (torch, transformers, peft, trl)}


def peak_memory_gb(device: str) -> float:
    """Highest memory of the process in 10^9 bytes, or of the GPU where it is used."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main() -> None:
    """Measures, and prints JSON as the last line."""
    given = arguments()
    prompts = json.loads(given.prompts.read_text())
    if len(prompts) % given.micro_batch_size:
        sys.exit(f"--micro_batch_size={given.micro_batch_size}: must divide the {len(prompts)} prompts")
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(given, prompts, folder, clock)
        with (
            patch.object(trl_ppo, "batch_generation", clock.after_sampling(trl_ppo.batch_generation)),
            patch.object(np.random, "permutation", clock.before_update(np.random.permutation)),
        ):
            trainer.train()
    timed = clock.iterations[given.warmup :]
    result = {name: median(iteration[name] for iteration in timed) for name in timed[0]}
    result |= {
        "seconds_of_each": [iteration["seconds"] for iteration in timed],
        "peak_memory_gb": peak_memory_gb(given.device),
        "episodes": len(prompts),
        "response_length": given.response_length,
        "inner_epochs": given.inner_epochs,
        "optimizer_steps": optimizer_steps(trainer),
        "dtype": given.dtype,
        "device": given.device,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
