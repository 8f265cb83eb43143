"""One process of the SFT benchmark: our SFT stage, or TRL's SFTTrainer, trains on the demo's demonstrations."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import torch
from trl import SFTConfig, SFTTrainer

from benchmarks.harness import DEMO, scratch_folder
from benchmarks.sft import Variant
from benchmarks.training import LORA, SEED, Memory, OurClock, TRLClock, dtype, fit_ours, trl_settings
from data_modules.batching.sampling import EpochBatchSampler
from data_modules.prompt_response import PromptResponseDataModule
from lit_instruct.handover import prompter_of
from lit_instruct.models.assemble import policy_network
from lit_instruct.models.loading import find_source
from lit_instruct.stages.options import OptimizerOptions
from lit_instruct.stages.sft import SFTModule
from lit_instruct.trl_bridge import SFTLossOptions

OPTIMIZER = OptimizerOptions()


def ours(workload: dict[str, Any], base: str) -> dict[str, Any]:
    """Trains our SFT stage on a Variant."""
    variant = Variant(**workload)
    loss = SFTLossOptions(packing=variant.packing, padding_free=variant.padding_free)
    module = SFTModule(base, LORA, OPTIMIZER, loss, seed=SEED)
    clock = OurClock()
    fit_ours(module, _data(variant), [clock], steps=variant.steps)
    return {"step_seconds": clock.step_seconds, "losses": clock.losses, **clock.memory.found()}


def trl(workload: dict[str, Any], base: str) -> dict[str, Any]:
    """Trains TRL's SFTTrainer on the same rows in the same order."""
    variant = Variant(**workload)
    source = find_source(base)
    data = _data(variant)
    data.prompter = prompter_of(source)
    data.setup()
    torch.manual_seed(SEED)
    network = policy_network(source, LORA, dtype())
    clock, memory = TRLClock(), Memory()
    with scratch_folder() as folder:
        settings = trl_settings(Path(folder), OPTIMIZER, variant.batch_size, 1)
        config = SFTConfig(
            **settings | {"max_steps": variant.steps},
            loss_type="nll",
            packing=variant.packing,
            padding_free=variant.padding_free,
            max_length=variant.max_length if variant.packing else None,
        )
        trainer = SFTTrainer(
            model=network,
            args=config,
            train_dataset=data.train_dataset,
            processing_class=data.prompter.tokenizer,
            callbacks=[clock],
        )
        batches = EpochBatchSampler(len(trainer.train_dataset), variant.batch_size, SEED).batches(0)
        trainer.train_dataset = trainer.train_dataset.select(list(chain(*batches)))
        memory.start()
        trainer.train()
    losses = [round(entry["loss"], 5) for entry in trainer.state.log_history if "loss" in entry]
    return {"step_seconds": clock.step_seconds, "losses": losses, **memory.found()}


def _data(variant: Variant) -> PromptResponseDataModule:
    path = str(DEMO / "demonstrations_train.jsonl")
    sizes = {"max_length": variant.max_length, "batch_size": variant.batch_size}
    return PromptResponseDataModule(path, validation_share=0.0, on_long="drop", seed=SEED, **sizes)
