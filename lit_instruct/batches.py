"""Named tensors that travel between the parts, and the shape letters that every docstring uses.

B prompts (or rows) of a batch, K responses to one prompt, N = sum of K over the prompts of a batch,
P prompt tokens, R response tokens, T = P + R tokens, H hidden size, V vocabulary.

Masks are boolean and have one polarity everywhere: True is a real token (the EOS included), False is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

IGNORED = -100
"""Label of a token that the loss ignores, as in PyTorch, transformers and TRL."""


class RankedBatch(NamedTuple):
    """The K ranked responses to each of B prompts, flattened; the prompts of one batch may differ in K."""

    input_ids: Tensor
    """(N, T) long, padded on the right; each row is prompt, response, EOS."""
    attention_mask: Tensor
    """(N, T) bool, True on real tokens."""
    ranks: Tensor
    """(N,) long, 1 is the best, equal ranks are ties."""
    prompt_index: Tensor
    """(N,) long in [0, B), non-decreasing: the prompt within the batch that a row answers."""
    row_number: Tensor
    """(B,) long, the row number of each prompt in the dataset."""
    margin: Tensor
    """(N,) float32; the better of two responses is to win by the difference of their margins; 0 where none is given."""


class PromptBatch(NamedTuple):
    """This rank's prompts of one PPO iteration."""

    prompt_ids: Tensor
    """(B, P) long, padded on the left, so that every response starts in the same column."""
    prompt_mask: Tensor
    """(B, P) bool, True on real tokens."""
    row_number: Tensor
    """(B,) long, the row number in the dataset: sampling is keyed by it, whichever rank samples."""
    rows: list[Any]
    """The data rows themselves (data_modules.rows.PromptRow), for reward functions and tables of samples."""

    def cpu(self) -> PromptBatch:
        """Returns the batch in host memory, where prompts are joined with responses and sorted by length."""
        return PromptBatch(self.prompt_ids.cpu(), self.prompt_mask.cpu(), self.row_number.cpu(), self.rows)

    def repeated(self, count: int) -> PromptBatch:
        """Returns every prompt `count` times in succession, each with a row number of its own, for other samples."""
        if count == 1:
            return self
        ids, mask, numbers = (part.repeat_interleave(count, dim=0) for part in self[:3])
        copies = torch.arange(count, device=numbers.device).repeat(len(self.rows))
        return PromptBatch(ids, mask, numbers * count + copies, [row for row in self.rows for _ in range(count)])


class Responses(NamedTuple):
    """Sampled responses."""

    ids: Tensor
    """(B, R) long, padded on the right."""
    mask: Tensor
    """(B, R) bool, True on real tokens, the EOS included."""


class Rollout(NamedTuple):
    """Everything about a batch of sampled responses that the PPO update needs."""

    input_ids: Tensor
    """(B, T) long, prompt and response, padded on the right."""
    attention_mask: Tensor
    """(B, T) bool, True on real tokens."""
    prompt_length: Tensor
    """(B,) long, tokens of each prompt: the column in which its response starts."""
    response_mask: Tensor
    """(B, R) bool, True on the response's real tokens, the EOS included."""
    log_probs: Tensor
    """(B, R) float32, log pi_old(token), 0 where masked."""
    reference_log_probs: Tensor
    """(B, R) float32, log pi_SFT(token), 0 where masked."""
    values: Tensor
    """(B, R) float32, V(state before the token), 0 where masked."""
    scores: Tensor
    """(B,) float32, the reward of each whole response plus the weighted further rewards; not yet shaped."""
    reward_parts: Tensor
    """(B, rewards) float32, the rewards that `scores` is made of, before weights: main, further, std of an ensemble."""
    ended: Tensor
    """(B,) bool, True where the response ended by itself, False where the length limit cut it."""
    entropy: Tensor
    """(B,) float32, mean entropy in nats of the policy's distributions over the response's tokens."""
    trunk: Tensor | None
    """(B, T, H) hidden states below the first adapted layer, shared by all roles; None without a trunk cache."""
    places: Tensor | None = None
    """(2, n) long, row and column of each real token of `response_mask`, if `input_ids` are padded on the right only;
    None makes the host wait for the device to find out."""
    sampler_log_probs: Tensor | None = None
    """(B, R) float32, log-probability of each token as the engine that sampled it computed it, 0 where masked; None if
    the tokens were sampled in this process."""

    @property
    def tokens(self) -> int:
        """Number of real tokens of all responses."""
        return self.places.shape[1] if self.places is not None else int(self.response_mask.sum())

    @property
    def response_ids(self) -> Tensor:
        """(B, R) long, the responses alone; arbitrary ids where masked."""
        return columns_from(self.input_ids, self.prompt_length, self.response_mask.shape[1])

    @property
    def response_length(self) -> Tensor:
        """(B,) long, tokens of each response, the EOS included."""
        return self.response_mask.sum(dim=1)


def columns_from(values: Tensor, first: Tensor, count: int) -> Tensor:
    """Returns `count` columns of each row from the row's own first one on: (B, count, ...), with gradient.

    Args:
        values: (B, T, ...).
        first: (B,) long, in [0, T).
        count: number of columns; the last one is repeated beyond the end.
    """
    rows, width = values.shape[:2]
    columns = (first[:, None] + torch.arange(count, device=first.device)).clamp(max=width - 1)
    places = columns + width * torch.arange(rows, device=first.device)[:, None]
    return values.flatten(0, 1).index_select(0, places.flatten()).view(rows, count, *values.shape[2:])


def around_response(hidden: Tensor, prompt_length: Tensor, response_mask: Tensor) -> Tensor:
    """Returns the states before each response token and after the last: (B, T, H) -> (B, R + 1, H), with gradient.

    Args:
        hidden: (B, T, H) of prompt and response.
        prompt_length: (B,) long, tokens of each prompt.
        response_mask: (B, R) bool, True is real.
    """
    return columns_from(hidden, prompt_length - 1, response_mask.shape[1] + 1)


def right_pad(sequences: list[list[int]], value: int) -> tuple[Tensor, Tensor]:
    """Returns `sequences` as one (B, T) tensor padded on the right with `value`, and its mask (True is real)."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.full(mask.shape, value, dtype=torch.long)
    ids[mask] = torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.long)
    return ids, mask


def left_pad(sequences: list[list[int]], value: int) -> tuple[Tensor, Tensor]:
    """Returns `sequences` as one (B, T) tensor padded on the left with `value`, and its mask (True is real)."""
    ids, mask = right_pad([sequence[::-1] for sequence in sequences], value)
    return ids.flip(1), mask.flip(1)


def length_batches(lengths: Sequence[int], rows: int | None = None, tokens: int | None = None) -> list[list[int]]:
    """Splits sequences into batches of similar length, to keep padding short; returns the indices of each batch.

    The longest sequences come first, so that running out of memory shows early.

    Args:
        lengths: tokens of each sequence.
        rows: most sequences of a batch.
        tokens: most tokens of a batch, padding included; a longer sequence is a batch of its own.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        count = len(batches[-1]) if batches else 0
        if batches and count != rows and (tokens is None or (count + 1) * lengths[batches[-1][0]] <= tokens):
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def per_step(batches: Sequence[Sequence[int]], counts: Sequence[int], accumulate: int) -> list[int]:
    """Returns, for each micro-batch, the sum of the counts of all rows of its optimizer step.

    Args:
        batches: row numbers of each global micro-batch of the epoch, in order.
        counts: of each row, such as its number of trained tokens.
        accumulate: micro-batches per optimizer step.
    """
    totals = []
    for start in range(0, len(batches), accumulate):
        window = batches[start : start + accumulate]
        totals += [sum(counts[row] for rows in window for row in rows)] * len(window)
    return totals


def position_ids(mask: Tensor) -> Tensor:
    """Returns each token's position among the real tokens of its row: (B, T) bool -> (B, T) long."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)
