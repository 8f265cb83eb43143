"""Bytes of what forward passes keep for the backward pass, of the cache of keys and values, and of logits."""

from __future__ import annotations

from typing import Literal

from lit_instruct.fast.llama_decode import CACHE_TOKENS
from lit_instruct.models.heads import CACHED_TOKENS, CHUNK_TOKENS
from lit_instruct.models.lora import LoraOptions
from lit_instruct.planning.shapes import ModelShape

FLOAT = 4
"""Bytes of a float32, in which norms, losses and logits are computed."""
OFFLOADED_LAYERS = 2
"""Layers whose activations are on the device while they travel to the host or back."""
SAMPLING_COPIES = 4
"""Copies of the float32 logits of a step that sampling makes, the sorted one of top-p included."""


Attention = Literal["whole", "branches", "short"]
"""Rows that attend without a mask, packed rows whose branches gather their queries and keys once more, or rows so short
that a CPU keeps the weights of all pairs (`short_attention`)."""


def layer_bytes(shape: ModelShape, compute: int, lora: LoraOptions | None, attends: Attention = "whole") -> int:
    """Returns what one decoder layer keeps of one token for the backward pass.

    With hidden size H, heads' width A = heads x head size, feed-forward width F and c bytes a number: two norms keep
    their input in float32, 2 x 4 H, and give 2 c H; attention keeps query, key, value and result, 4 c A (less where
    fewer heads of keys and values need no repetition, twice as much over branches); the feed-forward part its gate, its
    activation, the other half and their product, 4 c F. An adapter adds its r numbers a layer, dropout a copy and a
    mask of each input, DoRA a copy of each output. Trained weights want the norms' products as well, and in 16 bits
    every linear layer rounds its input for itself.

    Args:
        shape: of the model.
        compute: bytes of a number in matrix products.
        lora: adapter options; None trains all weights.
        attends: how rows attend.
    """
    heads = shape.heads + (shape.heads if attends == "branches" else shape.kv_heads)
    attention = 2 * compute * heads * shape.head_dim * (2 if attends == "branches" else 1)
    kept = 2 * FLOAT * shape.hidden + 2 * compute * shape.hidden + attention + 4 * compute * shape.intermediate
    if lora is None:
        rounded = (5 if compute < FLOAT else 0) * compute * shape.hidden
        return kept + 2 * FLOAT * shape.hidden + rounded
    adapted = [linear for linear in shape.adapted(lora) if linear.layer == shape.layers - 1]
    kept += compute * lora.r * len(adapted)
    if lora.dropout:
        kept += (compute + 1) * sum(linear.inputs for linear in adapted)
    if lora.dora:
        kept += compute * sum(linear.outputs for linear in adapted)
    return kept


def passing_bytes(shape: ModelShape, compute: int) -> int:
    """Returns what one token takes in a layer while it is computed, forward or backward, and that is not kept."""
    return compute * (3 * shape.intermediate + 2 * shape.hidden) + FLOAT * shape.hidden


def pair_bytes(shape: ModelShape, compute: int, rows: int, length: int) -> int:
    """Returns the attention weights that a layer keeps of short rows on a CPU: B x heads x T x T."""
    return compute * rows * shape.heads * length**2


def update_bytes(
    shape: ModelShape,
    compute: int,
    lora: LoraOptions | None,
    tokens: int,
    checkpointing: bool,
    offloading: bool,
    attends: Attention = "whole",
) -> int:
    """Returns what a forward pass with gradients keeps at most.

    Args:
        shape: of the model.
        compute: bytes of a number in matrix products.
        lora: adapter options; None trains all weights. Layers below the lowest adapted one keep nothing.
        tokens: of the pass, padding included.
        checkpointing: whether layers keep their input alone, and one at a time computes the rest again.
        offloading: whether the host keeps them.
        attends: how rows attend.
    """
    layers = shape.layers
    if lora is not None and lora.top_layers:
        layers = lora.top_layers
    whole = layer_bytes(shape, compute, lora, attends)
    kept = layers * compute * shape.hidden + whole if checkpointing else layers * whole
    if offloading:
        kept = min(kept, OFFLOADED_LAYERS * whole)
    final_norm = (FLOAT + compute) * shape.hidden
    return tokens * (kept + final_norm)


def attention_mask_bytes(rows: int, length: int, compute: int) -> int:
    """Returns the mask of packed or padded rows: B x T x T, as truth values and as what is added to the scores."""
    return rows * length * length * (1 + compute)


def head_bytes(shape: ModelShape, compute: int, tokens: int, device: str) -> int:
    """Returns what the output embedding takes for the log-probabilities of some tokens: a chunk's logits four times.

    Forward and backward hold a chunk of (CHUNK_TOKENS, V) in the dtype of the products and three times in float32 (on a
    CPU only CACHED_TOKENS of it at one time), beside the hidden states of all tokens, their copy in that dtype and
    their gradient.
    """
    widened = CACHED_TOKENS if device == "cpu" else CHUNK_TOKENS
    chunk = shape.vocabulary * (min(tokens, CHUNK_TOKENS) * compute + 3 * FLOAT * min(tokens, widened))
    return chunk + tokens * shape.hidden * (2 * compute + FLOAT)


def cache_bytes(shape: ModelShape, compute: int, rows: int, prompt: int, new: int) -> int:
    """Returns the cache of keys and values at its largest: while it grows, both the old and the new one exist.

    Args:
        shape: of the model.
        compute: bytes of a number.
        rows: sequences decoded side by side.
        prompt: tokens of the longest prompt.
        new: tokens that may follow it.
    """
    column = 2 * shape.layers * shape.kv_heads * shape.head_dim * compute
    room, largest = min(new, CACHE_TOKENS) + prompt, 0
    read = room + prompt  # the prompts' own cache is copied into it
    while room < prompt + new:
        grown = min(prompt + new, 2 * room)
        largest, room = max(largest, room + grown), grown
    return rows * column * max(read, largest, room)


def decode_logits_bytes(shape: ModelShape, compute: int, rows: int) -> int:
    """Returns the logits of one step, and the copies that sampling makes of them."""
    return rows * shape.vocabulary * (compute + SAMPLING_COPIES * FLOAT)
