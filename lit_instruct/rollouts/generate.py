"""Samples responses from a language model, each row from its own random generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lit_instruct.batches import Responses
from lit_instruct.errors import UserError
from lit_instruct.models.sharding import is_sharded
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.decode import decoding
from lit_instruct.rollouts.sampling import sample_tokens, uniforms
from lit_instruct.rollouts.stopping import StopRule

DROP_SHARE = 0.25
"""Finished rows are dropped once they are this share of the batch: moving the others takes time too."""

LOOK_EVERY = {"cpu": 1, "cuda": 16}
"""Tokens after which the host looks which rows have ended: on a GPU it waits for all queued work to do so."""


@dataclass
class SamplingOptions:
    """How responses are sampled.

    Args:
        max_new_tokens: longest response in tokens; longer ones are cut.
        temperature: divides the logits; 1 in the paper (C.4).
        top_p: keeps the smallest set of tokens with at least this total probability; 1 keeps all.
        top_k: keeps the k most probable tokens; 0 keeps all.
        stop_ids: token ids that end a response, in addition to the end of turn of the prompt format.
        stop_strings: texts that end a response with the token that completes one; its text stops before that one.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_ids: list[int] = field(default_factory=list)
    stop_strings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuses values with which nothing can be sampled."""
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens={self.max_new_tokens}: must be at least 1")
        if self.temperature <= 0:
            raise UserError(f"temperature={self.temperature}: must be above 0 (small values sample almost greedily)")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: must be above 0 and at most 1")
        if self.top_k < 0:
            raise UserError(f"top_k={self.top_k}: must be 0 (off) or a number of tokens")
        if any(token_id < 0 for token_id in self.stop_ids):
            raise UserError(f"stop_ids={self.stop_ids}: ids are 0 or above")
        if "" in self.stop_strings:
            raise UserError("stop_strings: an empty text ends every response at once; leave it out")

    def stop_rule(self, prompter: Prompter) -> StopRule:
        """Returns the rule by which responses to prompts of this format end."""
        return StopRule.of(prompter, self.stop_ids, self.stop_strings)


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    options: SamplingOptions,
    stop: StopRule,
    keys: Sequence[tuple[int, ...]],
    pad_id: int,
    on_token: Callable[[int], None] | None = None,
) -> Responses:
    """Samples one response per prompt.

    A row's random numbers depend only on its key, so its response does not depend on the other rows or on the number of
    processes, up to the rounding of the matrix products. Each rank decodes until its own rows have ended, except under
    FSDP2, where every forward is a collective and all ranks take `max_new_tokens` steps. On a GPU rows go on, unread,
    until the host looks again.

    Args:
        model: a transformers causal language model, in evaluation mode.
        prompt_ids: (B, P) long, padded on the left.
        prompt_mask: (B, P) bool, True is real.
        options: how to sample.
        stop: where a response ends; the token that ends it is part of it.
        keys: B keys of the random numbers, such as (seed, iteration, prompt number).
        pad_id: id of the tokens after the end.
        on_token: called after each step with the number of tokens so far.
    """
    ways = decoding(model, options.max_new_tokens)
    sharded, device = is_sharded(model), prompt_ids.device
    every = LOOK_EVERY.get(device.type, LOOK_EVERY["cuda"])
    draws = uniforms(keys, options.max_new_tokens).to(device)
    shape = len(prompt_ids), options.max_new_tokens
    tokens = torch.full(shape, pad_id, device=device)
    real = torch.zeros(shape, dtype=torch.bool, device=device)
    rows = torch.arange(len(prompt_ids), device=device)  # still in the batch
    alive = torch.ones_like(rows, dtype=torch.bool)
    logits, length, seen = ways.start(prompt_ids, prompt_mask), 0, 0
    while True:
        chosen = sample_tokens(logits, draws[rows, length], options)
        tokens[rows, length] = chosen.where(alive, pad_id)
        real[rows, length] = alive
        length += 1
        if on_token is not None:
            on_token(length)
        alive = alive & ~stop.ended_by_id(chosen)
        if length % every == 0 or length == options.max_new_tokens:  # the host looks, and waits for the device
            if stop.strings:
                alive = alive & ~_cut_at_strings(tokens, real, rows, seen, length, stop, pad_id)
            going, seen = alive.tolist(), length
            if length == options.max_new_tokens or not (sharded or any(going)):
                return _trimmed(Responses(tokens, real))
            if not sharded and sum(going) <= (1 - DROP_SHARE) * len(going):
                kept = compacted_rows(going)
                ways.keep(kept)
                kept = kept.to(device)
                rows, chosen, alive = rows[kept], chosen[kept], alive[kept]
        logits = ways.step(chosen)


def _cut_at_strings(
    tokens: Tensor, real: Tensor, rows: Tensor, seen: int, length: int, stop: StopRule, pad_id: int
) -> Tensor:
    """Removes what follows a stop string since the last look; returns which of `rows` (b,) have one: (b,) bool."""
    so_far, mask = tokens[rows, :length], real[rows, :length]
    ends = stop.ended_by_string(so_far.tolist(), seen)
    limit = torch.tensor([length if end is None else end for end in ends], device=rows.device)[:, None]
    beyond = torch.arange(length, device=rows.device) >= limit
    tokens[rows, :length] = so_far.masked_fill(beyond, pad_id)
    real[rows, :length] = mask & ~beyond
    return torch.tensor([end is not None for end in ends], device=rows.device)


def compacted_rows(alive: Sequence[bool]) -> Tensor:
    """Returns the rows that continue, the last ones in the places of finished ones: [1 0 1 1] -> [0 3 2], on the CPU.

    Most rows keep their place and need not be moved.
    """
    count = sum(alive)
    last = iter([row for row in range(count, len(alive)) if alive[row]])
    return torch.tensor([row if alive[row] else next(last) for row in range(count)], dtype=torch.long)


def _trimmed(responses: Responses) -> Responses:
    longest = int(responses.mask.sum(dim=1).max())
    return Responses(responses.ids[:, :longest], responses.mask[:, :longest])
