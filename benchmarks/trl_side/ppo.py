"""The TRL 1.12 side of `make bench-ppo`: seconds per iteration and peak memory of its PPOTrainer, as JSON.

Runs in the side environment of environment.sh, which knows nothing of lit-instruct: `python ppo.py OPTIONS`, where
OPTIONS are those of `benchmarks.ppo_sides.trl` as JSON. `base` is a Hugging Face folder, and `prompts` a file with a
list of lists of token ids, as many as an iteration has episodes. The policy has a LoRA adapter and, without it, is the
reference; value and reward model are copies of the base with a scalar head, the value model trained whole, as in TRL's
own example script. Responses are of full length: nothing stops them.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
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


def trainer_of(given: SimpleNamespace, prompts: list[list[int]], folder: str, clock: Clock) -> PPOTrainer:
    """TRL's trainer on the workload."""
    tokenizer = AutoTokenizer.from_pretrained(given.base, padding_side="left")
    torch.manual_seed(given.seed)
    load = {"dtype": DTYPES[given.dtype]}
    policy = AutoModelForCausalLM.from_pretrained(given.base, **load)
    scalar = {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id, **load}
    value, reward = (AutoModelForSequenceClassification.from_pretrained(given.base, **scalar) for _ in range(2))
    iterations = given.warmup + given.iterations
    config = PPOConfig(
        **shared_settings(given, folder, len(prompts), given.micro_batch_size),
        lr_scheduler_type="constant",
        learning_rate=given.learning_rate,
        response_length=given.response_length,
        num_ppo_epochs=given.inner_epochs,
        total_episodes=len(prompts) * iterations,
    )
    peft_config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    models = (policy, reward, value)
    return ordered_trainer(config, tokenizer, models, prompts * iterations, clock, peft_config=peft_config)


def shared_settings(given: SimpleNamespace, folder: str, batch_size: int, micro_batch_size: int) -> dict[str, Any]:
    """Settings of PPOConfig that do not depend on what is measured."""
    return {
        "output_dir": folder,
        "report_to": [],
        "use_cpu": given.device == "cpu",
        "bf16": given.dtype == "bf16",
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "num_sample_generations": 0,
        "disable_tqdm": True,
        "temperature": 1.0,
        "local_rollout_forward_batch_size": batch_size,
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": batch_size // micro_batch_size,
        "seed": given.seed,
    }


def ordered_trainer(
    config: PPOConfig, tokenizer: Any, models: tuple[Any, ...], prompts: list[list[int]], clock: Clock, **more: Any
) -> PPOTrainer:
    """A trainer that serves the prompts in order: shuffled, a batch might hold one of them twice."""
    policy, reward, value = models
    size = config.per_device_train_batch_size * config.gradient_accumulation_steps
    # On the last batch of a pass TRL steps on every micro-batch: with one batch more than needed there is none.
    rows = Dataset.from_dict({"input_ids": prompts + prompts[:size]})
    trainer = PPOTrainer(config, tokenizer, policy, None, reward, rows, value, callbacks=[clock], **more)
    trainer.remove_callback(transformers.PrinterCallback)
    loader = DataLoader(trainer.train_dataset, batch_size=size, collate_fn=trainer.data_collator, drop_last=True)
    trainer.dataloader = trainer.accelerator.prepare(loader)
    return trainer


def train(trainer: PPOTrainer, clock: Clock, device: str) -> dict[str, Any]:
    """Trains by the clock; returns peak memory, how many steps the optimizer has taken, and versions."""
    with (
        patch.object(trl_ppo, "batch_generation", clock.after_sampling(trl_ppo.batch_generation)),
        patch.object(np.random, "permutation", clock.before_update(np.random.permutation)),
    ):
        trainer.train()
    return {
        "peak_memory_gb": peak_memory_gb(device),
        "optimizer_steps": int(max(state["step"] for state in trainer.optimizer.state.values())),
        "versions": {part.__name__: part.__version__ for part in (torch, transformers, peft, trl)},
    }


def peak_memory_gb(device: str) -> float:
    """Highest memory of the process in 10^9 bytes, or of the GPU if it is used."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main() -> None:
    """Measures, and prints JSON as the last line."""
    given = SimpleNamespace(**json.loads(sys.argv[1]))
    prompts = json.loads(Path(given.prompts).read_text())
    if len(prompts) % given.micro_batch_size:
        sys.exit(f"micro_batch_size={given.micro_batch_size}: must divide the {len(prompts)} prompts")
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        found = train(trainer_of(given, prompts, folder, clock), clock, given.device)
    timed = clock.iterations[given.warmup :]
    result = {name: median(iteration[name] for iteration in timed) for name in timed[0]}
    result |= {
        "seconds_of_each": [iteration["seconds"] for iteration in timed],
        "episodes": len(prompts),
        "response_length": given.response_length,
        "inner_epochs": given.inner_epochs,
        "dtype": given.dtype,
        "device": given.device,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result | found))


if __name__ == "__main__":
    main()
