"""Bytes of weights and of optimizer states."""

from __future__ import annotations

from collections.abc import Sequence

from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.optimizers import OptimizerName
from lit_instruct.models.quantised import Quantize
from lit_instruct.planning.shapes import ModelShape

NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a 4-bit weight: half a byte, a 1-byte scale per 64 weights, and 4 bytes per 256 scales (QLoRA, 3)."""
STATES: dict[OptimizerName, int] = {"adamw": 2, "adamw_8bit": 2, "paged_adamw_8bit": 2, "lion_8bit": 1}
"""States per trained number."""
STATE_BYTES = {name: count * (4.0 if name == "adamw" else 1 + 4 / 256) for name, count in STATES.items()}
"""Bytes of them; in 8 bits a state has a 4-byte scale per 256 numbers. Paged states are counted as if they were on the
device: they are while it has room."""
SMALLEST_IN_8_BITS = 4096
"""Tensors with fewer numbers keep float32 states."""


def base_bytes(shape: ModelShape, quantize: Quantize, dtype_bytes: int, with_head: bool = True) -> int:
    """Returns the bytes of a model's weights.

    Args:
        shape: sizes of the model.
        quantize: bits of the decoder's linear layers; embeddings and norms are never quantised.
        dtype_bytes: bytes per number that is not quantised.
        with_head: whether the model has the output embedding, which a reward model lacks.
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
    """Returns the size of each tensor of an adapter: A (r, in), B (out, r), and with DoRA the magnitudes (out,)."""
    sizes = []
    for linear in shape.adapted(lora):
        sizes += [lora.r * linear.inputs, lora.r * linear.outputs]
        sizes += [linear.outputs] if lora.dora else []
    return sizes


def optimizer_bytes(name: OptimizerName, sizes: Sequence[int]) -> int:
    """Returns the bytes of an optimizer's states for trained tensors of these sizes."""
    return sum(
        int(size * (STATE_BYTES[name] if name == "adamw" or size >= SMALLEST_IN_8_BITS else 4 * STATES[name]))
        for size in sizes
    )
