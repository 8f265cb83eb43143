"""What sits on top of the decoder: the scalar head of reward and value, and token log-probabilities."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CHUNK_TOKENS = 128
"""Tokens whose logits exist at a time: enough for a fast product with the output embedding."""
CACHED_TOKENS = 16
"""Tokens whose logits a CPU casts to float32 at a time: 16 x 49k x 4 bytes stay in its cache."""


class ScoreHead(nn.Linear):
    """A scalar head that always computes in float32: bfloat16 would turn close rewards into ties."""

    @classmethod
    def like(cls, linear: nn.Linear, fresh: bool = False) -> ScoreHead:
        """Returns a head with the weights of `linear` (H -> 1) in float32; `fresh` draws them from N(0, 1/(H+1))."""
        head = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        with torch.no_grad():
            if fresh:
                head.weight.normal_(std=(linear.in_features + 1) ** -0.5)
            else:
                head.weight.copy_(linear.weight)
            if head.bias is not None:
                head.bias.zero_() if fresh else head.bias.copy_(linear.bias)
        return head

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the score of each position: (..., H) -> (..., 1) float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight.float(), self.bias)


class TokenLogProbs(NamedTuple):
    """A language model's probabilities of n tokens."""

    log_probs: Tensor
    """(n,) float32, log-probability of the token in nats, with gradient."""
    entropy: Tensor
    """(n,) float32, entropy of the distribution in nats, with gradient; 0 unless asked for."""
    is_top: Tensor
    """(n,) bool, whether the token is the most probable one; False unless asked for."""


def token_log_probs(
    hidden: Tensor, output_weight: Tensor, tokens: Tensor, temperature: float = 1.0, describe: bool = False
) -> TokenLogProbs:
    """Returns log softmax(W h / temperature)[token], chunk by chunk.

    Only one chunk of the (n, V) logits exists at a time; the backward pass recomputes them.

    Args:
        hidden: (n, H) final hidden states, contiguous; each predicts the token of the same row.
        output_weight: (V, H) weight of the output embedding.
        tokens: (n,) long.
        temperature: of the policy's distribution.
        describe: also computes entropy and `is_top`, with two more passes over the logits.
    """
    return TokenLogProbs(*_TokenLogProbs.apply(hidden, output_weight, tokens, temperature, describe))


class _TokenLogProbs(torch.autograd.Function):
    """Chunked log-softmax of a linear layer.

    d logits = [g (onehot - p) - g_H p (log p + H)] / temperature, with p the softmax, H its entropy, and g and g_H
    the gradients of log-probability and entropy.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, describe: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        log_probs = torch.empty(len(tokens), device=hidden.device)
        entropy, is_top = torch.zeros_like(log_probs), torch.zeros_like(tokens, dtype=torch.bool)
        small_hidden, small_weight = hidden.to(dtype), weight.to(dtype)
        for chunk in _slices(0, len(tokens), CHUNK_TOKENS):
            logits = small_hidden[chunk] @ small_weight.T
            for rows, block in _blocks(logits, chunk):
                found = _log_softmax(block, temperature)
                log_probs[rows] = found.gather(1, tokens[rows, None]).squeeze(1)
                if describe:
                    is_top[rows] = found.argmax(dim=-1) == tokens[rows]
                    entropy[rows] = torch.special.entr(found.exp_()).sum(dim=-1)
        ctx.save_for_backward(hidden, weight, tokens, entropy)
        ctx.temperature, ctx.dtype = temperature, dtype
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*([is_top] if describe else [entropy, is_top]))
        return log_probs, entropy, is_top

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor, Tensor | None, None, None, None]:
        hidden, weight, tokens, entropy = ctx.saved_tensors
        grad = torch.zeros_like(entropy) if grad is None else grad
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        small_hidden, small_weight = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk in _slices(0, len(tokens), CHUNK_TOKENS):
                logits = small_hidden[chunk] @ small_weight.T  # overwritten by their gradient
                for rows, block in _blocks(logits, chunk):
                    log_probs = _log_softmax(block, ctx.temperature)
                    described = None if grad_entropy is None else (entropy[rows], grad_entropy[rows])
                    block.copy_(_grad_logits(log_probs, tokens[rows], grad[rows], described).div_(ctx.temperature))
                grad_hidden[chunk] = (logits @ small_weight).to(hidden.dtype)
                if grad_weight is not None:
                    grad_weight += (logits.T @ small_hidden[chunk]).to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None


def _grad_logits(log_probs: Tensor, tokens: Tensor, grad: Tensor, described: tuple[Tensor, Tensor] | None) -> Tensor:
    """Returns the gradient of logits at temperature 1, (n, V), computed in place of `log_probs`.

    `described` are the entropies and their gradient, (n,) each.
    """
    surprise = None if described is None else log_probs + described[0][:, None]
    probs = log_probs.exp_()
    if surprise is not None and described is not None:
        surprise.mul_(probs).mul_(described[1][:, None])
    found = probs.mul_(-grad[:, None]).scatter_add_(1, tokens[:, None], grad[:, None])
    return found if surprise is None else found.sub_(surprise)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    logits = logits if temperature == 1 else logits.float() / temperature
    return logits.log_softmax(dim=-1, dtype=torch.float32)


def _blocks(logits: Tensor, chunk: slice) -> list[tuple[slice, Tensor]]:
    """Returns rows of all tokens and their part of the chunk's logits, few enough at a time for a CPU's cache."""
    length = CACHED_TOKENS if logits.device.type == "cpu" else CHUNK_TOKENS
    found = _slices(chunk.start, chunk.stop, length)
    return [(rows, logits[rows.start - chunk.start : rows.stop - chunk.start]) for rows in found]


def _slices(start: int, stop: int, length: int) -> list[slice]:
    return [slice(first, min(first + length, stop)) for first in range(start, stop, length)]
