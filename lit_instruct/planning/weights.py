"""Bytes of weights and of what an optimizer keeps beside them."""

from __future__ import annotations

from collections.abc import Sequence

from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.optimizers import OptimizerName
from lit_instruct.models.quantised import Quantize
from lit_instruct.planning.shapes import ModelShape

NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""A weight in 4 bits: half a byte, a byte of scale for each 64, and 4 bytes for each 256 of those scales (QLoRA, 3)."""
STATE_BYTES: dict[OptimizerName, float] = {
    "adamw": 8.0,
    "adamw_8bit": 2 * (1 + 4 / 256),
    "paged_adamw_8bit": 2 * (1 + 4 / 256),
    "lion_8bit": 1 + 4 / 256,
}
"""Bytes a trained number; in 8 bits a state has 4 bytes of scale for each 256 numbers. Paged states are counted as if
they were on the device: they are while it has room, and nothing else tells how far it can give way."""
STATES = {"adamw": 2, "adamw_8bit": 2, "paged_adamw_8bit": 2, "lion_8bit": 1}
SMALLEST_IN_8_BITS = 4096
"""Tensors with fewer numbers keep float32 states."""


def base_bytes(shape: ModelShape, quantize: Quantize, dtype_bytes: int, with_head: bool = True) -> int:
    """Returns the bytes of a model's weights.

    Args:
        shape: of the model.
        quantize: of the linear layers in the decoder; embeddings and norms never are.
        dtype_bytes: of a number that is not quantised.
        with_head: whether it has the output embedding, which a reward model lacks.
    """
    numbers = shape.parameters - (0 if with_head else shape.head_parameters)
    if quantize == "none":
        return numbers * dtype_bytes
    others = (numbers - shape.linear_parameters) * dtype_bytes
    if quantize == "4bit":
        return others + int(shape.linear_parameters * NF4_BYTES)
    scales = sum(4 * linear.outputs for linear in shape.linears)
    return others + shape.linear_parameters + scales


def adapter_sizes(shape: ModelShape, lora: LoraOptions) -> list[int]:
    """Returns the numbers in each tensor of an adapter: A (r, in), B (out, r) and with DoRA the lengths (out,)."""
    sizes = []
    for linear in shape.adapted(lora):
        sizes += [lora.r * linear.inputs, lora.r * linear.outputs]
        sizes += [linear.outputs] if lora.dora else []
    return sizes


def optimizer_bytes(name: OptimizerName, sizes: Sequence[int]) -> int:
    """Returns the bytes of an optimizer's states.

    Args:
        name: which.
        sizes: numbers of each trained tensor.
    """
    return sum(
        int(size * (STATE_BYTES[name] if name == "adamw" or size >= SMALLEST_IN_8_BITS else 4 * STATES[name]))
        for size in sizes
    )
