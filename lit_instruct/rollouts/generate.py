"""Samples responses from a language model, each row from a random generator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lit_instruct.batches import Responses
from lit_instruct.errors import UserError
from lit_instruct.models.roles import position_ids


@dataclass
class SamplingOptions:
    """How responses are sampled.

    Args:
        max_new_tokens: a response that has not ended by then is cut.
        temperature: divides the logits; 1 in the paper (C.4).
        top_p: keeps the smallest set of tokens with at least this probability; 1 keeps all.
        top_k: keeps the k most probable tokens; 0 keeps all.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        """Refuses values that sample nothing."""
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens={self.max_new_tokens}: must be at least 1")
        if self.temperature <= 0:
            raise UserError(f"temperature={self.temperature}: must be above 0 (small values sample almost greedily)")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: must be above 0 and at most 1")
        if self.top_k < 0:
            raise UserError(f"top_k={self.top_k}: must be 0 (off) or a number of tokens")


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    options: SamplingOptions,
    stop_ids: Sequence[int],
    keys: Sequence[tuple[int, ...]],
    pad_id: int,
) -> Responses:
    """Samples one response to each prompt.

    A row's random numbers depend on its key alone, so neither its neighbours nor the number of processes
    change what it says.

    Args:
        model: a transformers causal language model, in evaluation mode.
        prompt_ids: (B, P) long, padded on the left.
        prompt_mask: (B, P) bool, True is real.
        options: how to sample.
        stop_ids: ids that end a response; the one sampled belongs to it.
        keys: B keys, such as (seed, iteration, prompt number).
        pad_id: fills what follows the end.
    """
    draws = _uniforms(keys, options.max_new_tokens).to(prompt_ids.device)
    stops = torch.tensor(list(stop_ids), device=prompt_ids.device)
    decoder, head = getattr(model, model.base_model_prefix), model.get_output_embeddings()
    cache = DynamicCache(config=model.config)
    mask = prompt_mask.long()
    ids, positions = prompt_ids, position_ids(prompt_mask)
    alive = torch.ones(len(prompt_ids), dtype=torch.bool, device=prompt_ids.device)
    tokens, real = [], []
    for step in range(options.max_new_tokens):
        output = decoder(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        chosen = _sample(head(output[:, -1]).float(), draws[:, step], options)
        tokens.append(chosen.where(alive, pad_id))
        real.append(alive)
        alive = alive & ~torch.isin(chosen, stops)
        if not alive.any():
            break
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        ids, positions = tokens[-1][:, None], mask.sum(dim=1, keepdim=True) - 1
    return Responses(torch.stack(tokens, dim=1), torch.stack(real, dim=1))


def _uniforms(keys: Sequence[tuple[int, ...]], count: int) -> Tensor:
    """Returns (B, count) uniform numbers in [0, 1), row by row from a generator seeded with the row's key."""
    rows = []
    for key in keys:
        seed = 0
        for part in key:  # a fixed mix, unlike hash(), which is not promised to stay the same
            seed = (seed * 1_000_003 + part + 0x9E3779B9) % (2**63)
        rows.append(torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return torch.stack(rows)


def _sample(logits: Tensor, draws: Tensor, options: SamplingOptions) -> Tensor:
    """Returns one token a row by the inverse of the cumulative distribution: (B, V), (B,) -> (B,).

    Several times faster than multinomial over a large vocabulary, and one uniform number a token.
    """
    logits = logits / options.temperature
    if options.top_k:
        threshold = logits.topk(min(options.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    if options.top_p < 1:
        ranked, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        unlikely = ranked.cumsum(dim=-1) - ranked >= options.top_p
        logits = logits.masked_fill(unlikely.scatter(1, order, unlikely), -torch.inf)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    targets = draws.to(cumulative)[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, targets, right=True).squeeze(-1)
    # A draw that rounds to 1 finds nothing: the last token with any probability is where the sum reaches its end.
    last_possible = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous()).squeeze(-1)
    return torch.minimum(found, last_possible)
