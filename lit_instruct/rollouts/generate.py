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
    FSDP2, where every forward is a collective and all ranks take `max_new_tokens` steps.

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
    sharded = is_sharded(model)
    draws = uniforms(keys, options.max_new_tokens).to(prompt_ids.device)
    shape = len(prompt_ids), options.max_new_tokens
    tokens = torch.full(shape, pad_id, device=prompt_ids.device)
    real = torch.zeros(shape, dtype=torch.bool, device=prompt_ids.device)
    rows = torch.arange(len(prompt_ids), device=prompt_ids.device)  # still in the batch
    alive = torch.ones_like(rows, dtype=torch.bool)
    logits, length = ways.start(prompt_ids, prompt_mask), 0
    while True:
        chosen = sample_tokens(logits, draws[rows, length], options)
        tokens[rows[alive], length] = chosen[alive]
        real[rows[alive], length] = True
        length += 1
        if on_token is not None:
            on_token(length)
        alive = alive & ~stop.ended_rows(tokens[rows, :length])
        if length == options.max_new_tokens or not (sharded or bool(alive.any())):
            return _trimmed(Responses(tokens, real))
        if not sharded and int(alive.sum()) <= (1 - DROP_SHARE) * len(rows):
            kept = compacted_rows(alive)
            ways.keep(kept)
            rows, chosen, alive = rows[kept], chosen[kept], alive[kept]
        logits = ways.step(chosen)


def compacted_rows(alive: Tensor) -> Tensor:
    """Returns the rows that continue, the last ones in the places of finished ones: [1 0 1 1] -> [0 3 2].

    Most rows keep their place and need not be moved.
    """
    count = int(alive.sum())
    rows = torch.arange(count, device=alive.device)
    rows[~alive[:count]] = count + alive[count:].nonzero().squeeze(1)
    return rows


def _trimmed(responses: Responses) -> Responses:
    longest = int(responses.mask.sum(dim=1).max())
    return Responses(responses.ids[:, :longest], responses.mask[:, :longest])
