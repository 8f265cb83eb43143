"""Our own decode step for Llama-like models: one query per row over a preallocated cache.

On a CPU, transformers' forward wastes time in a decode step: its attention is written for many queries and takes most
of the step with one, and every token copies the cache and builds a new mask. Here attention is two batched matrix
products over the cache. Everything else runs the model's own modules, so adapters and quantised weights work as usual.
Fusing the matrices of query, key and value, or of gate and up, gained too little to justify a copy of the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lit_instruct.batches import position_ids

CACHE_TOKENS = 256
"""Response tokens that the cache holds at first; it doubles when full."""

SIMILAR_LENGTH = 0.8
"""Prompts are read together if the shortest has at least this share of the longest one's tokens ..."""
PART_TOKENS = 256
"""... or while they have fewer tokens than this: small matrix products are inefficient."""


class LlamaDecoding:
    """Decoding over a preallocated cache, with one query per row.

    Args:
        model: a causal language model that `decode.fits_llama_decoding` accepts.
        new_tokens: most tokens that will be appended.
        head: computes what the model's output embedding computes; None is that one.
    """

    def __init__(self, model: nn.Module, new_tokens: int, head: nn.Module | None = None) -> None:
        self.model = model
        self.decoder: Any = getattr(model, model.base_model_prefix)
        self.head: Any = model.get_output_embeddings() if head is None else head
        self.new_tokens = new_tokens

    def start(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Reads the prompts with the model's own forward: those of similar length together, shared ones only once."""
        self.cache = self._empty_cache(mask)
        self.positions = mask.sum(dim=1)  # of the next token
        on_host = torch.cat([mask.long(), ids], dim=1).cpu()  # one wait; what follows needs none
        prompts, copy_of = torch.unique(on_host, dim=0, return_inverse=True)
        distinct_mask, distinct_ids = prompts[:, : mask.shape[1]].bool(), prompts[:, mask.shape[1] :]
        parts = similar_length_parts(distinct_mask.sum(dim=1))
        hidden = torch.cat([self._read(part, distinct_ids, distinct_mask, copy_of) for part in parts])
        place = torch.cat(parts).argsort()  # of each distinct prompt in `hidden`
        return self.head(hidden[place[copy_of].to(hidden.device)])

    def _empty_cache(self, mask: Tensor) -> _Cache:
        attention, device = self.decoder.layers[0].self_attn, mask.device.type
        dtype = self.head.weight.dtype if not torch.is_autocast_enabled(device) else torch.get_autocast_dtype(device)
        heads = self.model.config.num_key_value_heads
        return _Cache((len(self.decoder.layers), heads, attention.head_dim), mask, self.new_tokens, dtype)

    def _read(self, part: Tensor, ids: Tensor, mask: Tensor, copy_of: Tensor) -> Tensor:
        """Reads some distinct prompts into the rows that share them; returns their last hidden states: (b, H).

        On the CPU: `part` (b,) are indices into `ids` and `mask` (D, P), and so is `copy_of` (B,), each row's prompt.
        """
        width, device = int(mask[part].sum(dim=1).max()), self.positions.device
        rows, sources = (copy_of[:, None] == part).nonzero(as_tuple=True)
        ids, mask = ids[part, -width:].to(device), mask[part, -width:].to(device)
        filled, places = DynamicCache(config=self.model.config), position_ids(mask)
        output = self.decoder(
            ids, attention_mask=mask.long(), position_ids=places, past_key_values=filled, use_cache=True
        )
        self.cache.fill(rows.to(device), filled, sources.to(device))
        return output.last_hidden_state[:, -1]

    def step(self, tokens: Tensor) -> Tensor:
        """Appends a token to every row."""
        self.cache.make_room()
        hidden = self.decoder.embed_tokens(tokens)
        cosines, sines = self.decoder.rotary_emb(hidden, self.positions[:, None])
        for number, layer in enumerate(self.decoder.layers):
            attended = self._attend(number, layer.self_attn, layer.input_layernorm(hidden), cosines, sines)
            hidden = hidden + attended
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        self.positions = self.positions + 1
        self.cache.length += 1
        return self.head(self.decoder.norm(hidden))

    def keep(self, rows: Tensor) -> None:
        """Keeps only some rows; their numbers are on the CPU."""
        self.positions = self.positions[rows.to(self.positions.device)]
        self.cache.keep(rows)

    def _attend(self, number: int, attention: Any, hidden: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Attention of one layer with one query per row: (B, H) -> (B, H)."""
        rows, size = len(hidden), attention.head_dim
        query = attention.q_proj(hidden).view(rows, -1, size)
        key = attention.k_proj(hidden).view(rows, -1, size)
        value = attention.v_proj(hidden).view(rows, -1, size)
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        rotated = _rotate(torch.cat([query, key], dim=1), cosines, sines)  # both at once
        query, key = rotated.split([query.shape[1], key.shape[1]], dim=1)
        keys, values = self.cache.append(number, key, value)
        query = query.reshape(len(keys), -1, size).to(keys.dtype)  # heads that share a key are adjacent
        scores = torch.baddbmm(self.cache.bias[..., : keys.shape[2]], query, keys, alpha=attention.scaling)
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype)
        return attention.o_proj(torch.bmm(weights, values).view(rows, -1))


def _rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary embedding of the halves of each head: (B, heads, D) and (B, 1, D) twice -> (B, heads, D)."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat([-second, first], dim=-1) * sines


def similar_length_parts(lengths: Tensor) -> list[Tensor]:
    """Splits rows, longest first, where padding would get too long: (B,) long lengths -> row numbers of each part."""
    order = lengths.argsort(descending=True, stable=True)
    parts: list[list[int]] = [[]]
    widest = 0
    for row, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if widest * len(parts[-1]) >= PART_TOKENS and length < SIMILAR_LENGTH * widest:
            parts.append([])
        widest = length if not parts[-1] else widest
        parts[-1].append(row)
    return [torch.tensor(part, device=lengths.device) for part in parts]


class _Cache:
    """Keys and values of all layers, in one tensor each: columns are filled from the left, the first B rows are in use.

    `shape` is (layers, key-value heads, size of a head), `mask` (B, P) that of the prompts, which at most `new_tokens`
    tokens follow.
    """

    def __init__(self, shape: tuple[int, int, int], mask: Tensor, new_tokens: int, dtype: torch.dtype) -> None:
        layers, heads, size = shape
        self.rows, self.length = mask.shape
        self.limit = self.length + new_tokens
        room = min(self.limit, self.length + CACHE_TOKENS)
        # Keys are stored transposed: a slice can then be multiplied without a copy.
        self.keys = torch.zeros(layers, self.rows, heads, size, room, dtype=dtype, device=mask.device)
        self.values = torch.zeros(layers, self.rows, heads, room, size, dtype=dtype, device=mask.device)
        # Added to the scores: (B x heads, 1, P + R), the smallest number of the dtype on padding.
        self.bias = torch.zeros(self.rows * heads, 1, self.limit, dtype=dtype, device=mask.device)
        padding = ~mask.repeat_interleave(heads, dim=0)[:, None]
        self.bias[..., : self.length].masked_fill_(padding, torch.finfo(dtype).min)

    def fill(self, rows: Tensor, filled: DynamicCache, sources: Tensor) -> None:
        """Fills `rows` (n,) from rows `sources` (n,) of transformers' cache, which is as wide as its longest prompt."""
        for number, layer in enumerate(filled.layers):
            columns = slice(self.length - layer.keys.shape[2], self.length)
            self.keys[number, rows, ..., columns] = layer.keys[sources].transpose(2, 3).to(self.keys.dtype)
            self.values[number, rows, :, columns] = layer.values[sources].to(self.values.dtype)

    def make_room(self) -> None:
        """Grows the cache if there is no free column for the next token."""
        layers, _, heads, size, room = self.keys.shape
        if self.length < room:
            return
        wider = min(self.limit, 2 * room)
        keys = self.keys.new_empty((layers, self.rows, heads, size, wider))
        values = self.values.new_empty((layers, self.rows, heads, wider, size))
        keys[..., :room] = self.keys[:, : self.rows]
        values[:, :, :, :room] = self.values[:, : self.rows]
        self.keys, self.values = keys, values

    def append(self, number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes a layer's next column (B, heads, D); returns keys (B x heads, D, T) and values (B x heads, T, D)."""
        keys, values = self.keys[number, : self.rows], self.values[number, : self.rows]
        keys[..., self.length] = key
        values[:, :, self.length] = value
        used = self.length + 1
        return keys.flatten(0, 1)[..., :used], values.flatten(0, 1)[:, :used]

    def keep(self, rows: Tensor) -> None:
        """Keeps only the given rows, (b,) on the CPU; rows that keep their place are not copied."""
        count, used, heads, device = len(rows), self.length, self.keys.shape[2], self.keys.device
        places = torch.arange(count)
        moved = rows != places
        sources, places = rows[moved].to(device), places[moved].to(device)
        self.keys[:, places, ..., :used] = self.keys[:, sources, ..., :used]
        self.values[:, places, :, :used] = self.values[:, sources, :, :used]
        self.bias = self.bias.view(self.rows, heads, 1, -1)[rows.to(device)].flatten(0, 1)
        self.rows = count
