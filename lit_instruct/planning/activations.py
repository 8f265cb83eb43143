"""Bytes of activations kept for the backward pass, of the KV cache, and of logits."""

from __future__ import annotations

from typing import Literal

from lit_instruct.fast.llama_decode import CACHE_TOKENS
from lit_instruct.models.heads import CACHED_TOKENS, CHUNK_TOKENS
from lit_instruct.models.lora import LoraOptions
from lit_instruct.planning.shapes import ModelShape

FLOAT = 4
"""Bytes of a float32, the dtype of norms, losses and their logits."""
OFFLOADED_LAYERS = 2
"""Layers whose activations are on the device while they are copied to or from the host."""
SAMPLING_COPIES = 4
"""Float32 copies of one step's logits that sampling makes, including the sorted one of top-p."""
Attention = Literal["whole", "shared_prefix", "short"]
"""Unmasked rows, packed rows with a shared prefix (queries and keys are gathered once more), or rows so short that a
CPU keeps the attention weights of all pairs (`short_attention`)."""


def layer_bytes(shape: ModelShape, compute: int, lora: LoraOptions | None, attends: Attention = "whole") -> int:
    """Returns what one decoder layer keeps per token for the backward pass.

    With hidden size H, A = heads x head size, feed-forward width F and c bytes per number in matrix products:

    - two norms: their inputs in float32, 2 x 4 H, and outputs, 2 c H;
    - attention: query, key, value and result, 4 c A (less with fewer KV heads; twice as much with a shared prefix);
    - feed-forward: the gate, its activation, the up projection and the product, 4 c F;
    - each adapter: its r numbers; dropout adds a copy and a mask of its input, DoRA a copy of its output;
    - without adapters: the products of the norms too, and in 16 bits the rounded input of every linear layer.

    Args:
        shape: sizes of the model.
        compute: c, bytes per number in matrix products.
        lora: adapter options; None trains all weights.
        attends: kind of attention.
    """
    heads = shape.heads + (shape.heads if attends == "shared_prefix" else shape.kv_heads)
    attention = 2 * compute * heads * shape.head_dim * (2 if attends == "shared_prefix" else 1)
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
    """Returns the temporary bytes per token while a layer is computed, forward or backward."""
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
    """Returns the peak of what a forward pass with gradients keeps.

    Args:
        shape: sizes of the model.
        compute: bytes per number in matrix products.
        lora: adapter options; None trains all weights. Layers below the lowest adapted one keep nothing.
        tokens: in the pass, padding included.
        checkpointing: whether each layer keeps only its input and is computed again, one at a time.
        offloading: whether activations are kept on the host.
        attends: kind of attention.
    """
    layers = (lora.top_layers if lora is not None else 0) or shape.layers
    whole = layer_bytes(shape, compute, lora, attends)
    kept = layers * compute * shape.hidden + whole if checkpointing else layers * whole
    if offloading:
        kept = min(kept, OFFLOADED_LAYERS * whole)
    final_norm = (FLOAT + compute) * shape.hidden
    return tokens * (kept + final_norm)


def attention_mask_bytes(rows: int, length: int, compute: int) -> int:
    """Returns the mask of packed or padded rows, B x T x T: as booleans and as a bias added to the scores."""
    return rows * length * length * (1 + compute)


def head_bytes(shape: ModelShape, compute: int, tokens: int, device: str) -> int:
    """Returns what the output embedding takes to compute the log-probabilities of some tokens.

    Forward and backward hold a chunk of logits (CHUNK_TOKENS, V) in the dtype of the products and three times in
    float32 (on a CPU only CACHED_TOKENS of it at a time), and the hidden states of all tokens, their copy in that
    dtype and their gradient.
    """
    widened = CACHED_TOKENS if device == "cpu" else CHUNK_TOKENS
    chunk = shape.vocabulary * (min(tokens, CHUNK_TOKENS) * compute + 3 * FLOAT * min(tokens, widened))
    return chunk + tokens * shape.hidden * (2 * compute + FLOAT)


def cache_bytes(shape: ModelShape, compute: int, rows: int, prompt: int, new: int) -> int:
    """Returns the peak of the KV cache: while it grows, the old and the new one both exist.

    Args:
        shape: sizes of the model.
        compute: bytes per number.
        rows: sequences decoded in parallel.
        prompt: tokens of the longest prompt.
        new: most tokens sampled after it.
    """
    column = 2 * shape.layers * shape.kv_heads * shape.head_dim * compute
    room, largest = min(new, CACHE_TOKENS) + prompt, 0
    read = room + prompt  # the prompts' own cache is copied into it
    while room < prompt + new:
        grown = min(prompt + new, 2 * room)
        largest, room = max(largest, room + grown), grown
    return rows * column * max(read, largest, room)


def decode_logits_bytes(shape: ModelShape, compute: int, rows: int) -> int:
    """Returns the logits of one decoding step, with the copies that sampling makes."""
    return rows * shape.vocabulary * (compute + SAMPLING_COPIES * FLOAT)
