"""Bases in 8 and 4 bits with bitsandbytes: how they are loaded, and what training on them needs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from lit_instruct.errors import UserError

Quantize = Literal["none", "8bit", "4bit"]
"""Quantisation of a frozen base: none, LLM.int8 or NF4."""


@dataclass(frozen=True)
class Quantisation:
    """How a base is quantised while it is loaded; embeddings, norms and heads stay in its dtype."""

    kind: Literal["8bit", "4bit"]
    """LLM.int8 (Dettmers et al. 2022), or NF4 with double quantisation (Dettmers et al. 2023)."""
    device: torch.device
    """Where it will run; the weights are quantised there."""

    def load_options(self, dtype: torch.dtype, kept: list[str] | None = None) -> dict[str, Any]:
        """Returns the arguments of transformers' `from_pretrained`.

        Args:
            dtype: of products with 4-bit weights.
            kept: last parts of the names of linear layers that are not quantised; None means the output embedding.
        """
        if self.kind == "4bit":
            config = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
                llm_int8_skip_modules=kept,
            )
        else:
            # With a threshold, columns with an outlier anywhere in the batch stay in 16 bits: the output for a row
            # would depend on the other rows.
            config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0, llm_int8_skip_modules=kept)
            # It warns at every product that the input is cast to float16 before it is rounded to 8 bits.
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return {"quantization_config": config, "device_map": {"": self.device}}


def quantisation(
    kind: Quantize, device: torch.device, option: str = "--quantize", reason: str = ""
) -> Quantisation | None:
    """Returns how bases are quantised, or None if they are not.

    Args:
        kind: the user's choice.
        device: where they will run.
        option: name of the user's option, for the message.
        reason: why it was chosen if not by the user, for the message.

    Raises:
        UserError: as `check_bitsandbytes`.
    """
    if kind == "none":
        return None
    check_bitsandbytes(f"{option}={kind}{reason}", device)
    return Quantisation(kind, device)


def check_bitsandbytes(choice: str, device: torch.device) -> None:
    """Raises a UserError if bitsandbytes is not installed, or the device is neither a CPU nor a CUDA device.

    Args:
        choice: option and value that need it, such as --quantize=4bit.
        device: where it would run.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError(f"{choice}: needs bitsandbytes; install it with pip install 'lit-instruct[quantization]'")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"{choice}: works on a CPU or a CUDA device, not on {device.type}; choose another value")


def check_dora(network: nn.Module, name: str) -> None:
    """Raises a UserError on DoRA on 8-bit layers on a CPU, where PEFT loses their scales after the first pass.

    Args:
        network: a model with adapters.
        name: the option or folder they come from, for the message.
    """
    for layer in network.modules():
        weight: Any = getattr(getattr(layer, "base_layer", None), "weight", None)
        if type(weight).__name__ != "Int8Params" or weight.device.type != "cpu":
            continue
        if len(getattr(layer, "lora_magnitude_vector", ())):
            raise UserError(f"{name}: on a CPU, DoRA does not work on a base in 8 bits; use 4bit or none, or a GPU")


def keep_differentiable(network: nn.Module) -> None:
    """Keeps 4-bit layers in the format that gradients pass through.

    On CPUs with AVX512-BF16, the first forward in evaluation mode without gradients makes bitsandbytes repack the
    weights permanently into a format whose product has no gradient and rounds differently: after a validation, adapters
    below such a layer would silently stop learning.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def leave_file(network: nn.Module) -> None:
    """Copies the tensors of a quantised model that are not quantised out of the memory-mapped file, on a CPU.

    As long as one tensor is backed by the file, the pages of all 16- or 32-bit weights read from it stay in memory.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        plain = type(tensor) in (nn.Parameter, torch.Tensor)  # bitsandbytes has its own types
        if plain and tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
