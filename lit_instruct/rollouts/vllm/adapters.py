"""The policy's adapter as a folder that servers read, named after its content."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import torch
from peft import PeftModel

from lit_instruct.files import replacing_files
from lit_instruct.models.lora import adapter_weights, save_adapter

PREFIX = "lit-instruct-"


@torch.no_grad()
def adapter_name(network: PeftModel, adapter: str) -> str:
    """Returns a name made of the adapter's weights and scale: equal adapters have one name, all others another.

    A counter would give two runs, or a run and its resumed self, one name for different weights.
    """
    config = network.peft_config[adapter]
    total = hashlib.sha256(repr((config.r, config.lora_alpha, config.use_rslora)).encode())
    for name, weight in sorted(adapter_weights(network, adapter).items()):
        total.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        total.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return f"{PREFIX}{total.hexdigest()[:16]}"


def write_adapter(network: PeftModel, adapter: str, folder: Path) -> None:
    """Writes an adapter into a folder named after it, whole or not at all; removes the others beside it."""
    if not (folder / "adapter_model.safetensors").is_file():
        with replacing_files(folder) as scratch:
            save_adapter(network, adapter, scratch)
    for other in folder.parent.glob(f"{PREFIX}*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
