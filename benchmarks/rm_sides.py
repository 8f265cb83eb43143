"""One process of the reward benchmark: our reward stage, or TRL's RewardTrainer, trains on a case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase
from trl import RewardConfig, RewardTrainer

from benchmarks.harness import scratch_folder
from benchmarks.rm_work import Case, Item, pairs_of
from benchmarks.training import LORA, SEED, Memory, OurClock, TRLClock, dtype, fit_ours, trl_settings
from data_modules.ranked_comparison import RankedComparisonDataModule
from data_modules.tables.arrow import number_rows
from lit_instruct.handover import prompter_of
from lit_instruct.models.assemble import reward_network
from lit_instruct.models.loading import find_source
from lit_instruct.stages.options import OptimizerOptions
from lit_instruct.stages.reward import RewardModule

OPTIMIZER = OptimizerOptions()


def comparisons(items: list[Item], batch_size: int) -> RankedComparisonDataModule:
    """Returns a DataModule of comparisons that are already token ids, with `batch_size` prompts per step."""
    data = RankedComparisonDataModule("random", validation_share=0.0, batch_size=batch_size, seed=SEED)
    data.train_dataset = number_rows(Dataset.from_list(items))
    return data


def ours(workload: dict[str, Any], base: str) -> dict[str, Any]:
    """Trains our reward stage: one step to warm up, the others timed."""
    case = Case(**workload)
    module = RewardModule(base, LORA, OPTIMIZER, seed=SEED)
    prompts = case.prompts * (1 + case.our_steps)
    vocabulary = len(module.prompter.tokenizer)
    data = comparisons(case.items(prompts, vocabulary), case.prompts)
    clock = OurClock()
    fit_ours(module, data, [clock])
    seconds = sum(clock.step_seconds[1:])
    pairs = case.pairs * case.prompts * case.our_steps
    return {"seconds": seconds, "pairs_per_second": pairs / seconds, **clock.memory.found()}


def trl(workload: dict[str, Any], base: str, micro_batch: int) -> dict[str, Any]:
    """Trains TRL's RewardTrainer: one micro-batch to warm up, then whole steps timed."""
    case = Case(**workload)
    network, tokenizer = new_network(base)
    pairs = pairs_of(case.items(case.prompts * case.trl_steps, len(tokenizer)))
    memory = Memory()
    memory.start()
    train_pairs(network, tokenizer, pairs[:micro_batch], micro_batch, 1)
    seconds = train_pairs(network, tokenizer, pairs, micro_batch, case.pairs * case.prompts // micro_batch)
    return {"seconds": seconds, "pairs_per_second": len(pairs) / seconds, **memory.found()}


def search(workload: dict[str, Any], base: str) -> dict[str, Any]:
    """Tries out TRL's micro-batches on a few pairs each, and returns the pairs per second of all."""
    case = Case(**workload)
    network, tokenizer = new_network(base)
    pairs = pairs_of(case.items(case.prompts * case.trl_steps, len(tokenizer)))
    tries = []
    for size in case.micro_batches:
        train_pairs(network, tokenizer, pairs[:size], size, 1)
        count = case.search_pairs(size)
        seconds = train_pairs(network, tokenizer, pairs[:count], size, count // size)
        tries.append({"micro_batch": size, "pairs_per_second": round(count / seconds, 3)})
    return {"tries": tries}


def new_network(base: str) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Returns the reward model that our stage would train, and its tokenizer."""
    source = find_source(base)
    prompter = prompter_of(source)
    torch.manual_seed(SEED)
    return reward_network(source, LORA, dtype(), prompter.pad_id), prompter.tokenizer


def train_pairs(
    network: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[dict[str, list[int]]],
    micro_batch: int,
    accumulate: int,
    callbacks: Sequence[Any] = (),
    optimizer: OptimizerOptions = OPTIMIZER,
) -> float:
    """Trains TRL's RewardTrainer on `pairs_of` comparisons in their order and returns the seconds of its steps.

    A step takes `accumulate` micro-batches of `micro_batch` pairs. `callbacks` are those of transformers' trainer.
    """
    clock = TRLClock()
    with scratch_folder() as folder:
        settings = trl_settings(Path(folder), optimizer, micro_batch, accumulate)
        RewardTrainer(
            model=network,
            args=RewardConfig(**settings, max_length=None),
            train_dataset=Dataset.from_list(list(pairs)),
            processing_class=tokenizer,
            callbacks=[clock, *callbacks],
        ).train()
    vars(network).pop("forward", None)  # accelerate's autocast, which the next trainer would wrap again
    return clock.marks[-1] - clock.marks[0]
