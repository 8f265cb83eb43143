"""Folders like those that stages leave, without training: adapters with random weights on the tiny model."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel

from lit_instruct.handover import Stage, prompter_of, write_stage
from lit_instruct.models.assemble import policy_network, reward_network
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions, save_adapter

SFT_LORA = LoraOptions(r=4, alpha=8.0, top_layers=2)
REWARD_LORA = LoraOptions(r=4, alpha=8.0, top_layers=2)
REWARD_BIAS = 0.75


def shake(network: PeftModel, seed: int) -> None:
    """Makes every adapter matter: its B matrices, zero at first, become random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def sft_folder(folder: Path, base: Path, lora: LoraOptions = SFT_LORA) -> Path:
    """Writes what the SFT stage would."""
    torch.manual_seed(1)
    network = policy_network(find_source(str(base)), lora, torch.float32)
    shake(network, seed=1)
    return _write(folder, base, "sft", network)


def reward_folder(folder: Path, sft: Path, lora: LoraOptions = REWARD_LORA, seed: int = 2) -> Path:
    """Writes what the reward stage would, started from `sft`."""
    torch.manual_seed(seed)
    network = reward_network(find_source(str(sft)), lora, torch.float32, pad_id=0)
    shake(network, seed)
    return _write(folder, sft, "rm", network)


def _write(folder: Path, parent: Path, stage: str, network: PeftModel) -> Path:
    folder.mkdir(parents=True)
    save_adapter(network, "default", folder)
    prompter = prompter_of(find_source(str(parent)))
    prompter.tokenizer.save_pretrained(str(folder))
    bias = REWARD_BIAS if stage == "rm" else None
    base = {"source": str(parent), "revision": None}
    write_stage(folder, Stage(stage, base, {}, prompter.describe(), {}, seed=0, seconds=1.0, reward_bias=bias))
    return folder
