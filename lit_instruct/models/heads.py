"""What sits on top of the decoder: the scalar head of reward and value, and token log-probabilities."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_instruct.fast.packed import packed_linear

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


class OutputHead(NamedTuple):
    """What turns hidden states into logits: cap tanh(scale (W h + b) / cap); `logits.output_head` finds it."""

    weight: Tensor
    """(V, H) weight of the output embedding."""
    bias: Tensor | None = None
    """(V,), or None."""
    scale: float = 1.0
    """Factor of the logits."""
    cap: float | None = None
    """Bound of the logits' absolute value; None does not bound them."""
    packed: Tensor | None = None
    """The weight as `fast.packed` lays it out; None multiplies by the plain one."""

    @property
    def is_plain(self) -> bool:
        """Whether the logits are W h."""
        return self.bias is None and self.scale == 1 and self.cap is None


class TokenLogProbs(NamedTuple):
    """A language model's probabilities of n tokens."""

    log_probs: Tensor
    """(n,) float32, log-probability of the token in nats, with gradient."""
    entropy: Tensor
    """(n,) float32, entropy of the distribution in nats, with gradient; 0 unless asked for."""
    is_top: Tensor
    """(n,) bool, whether the token is the most probable one; False unless asked for."""


def token_log_probs(
    hidden: Tensor, head: OutputHead, tokens: Tensor, temperature: float = 1.0, describe: bool = False
) -> TokenLogProbs:
    """Returns log softmax(logits / temperature)[token], chunk by chunk; the logits are W h for a plain head.

    Only one chunk of the (n, V) logits exists at a time; the backward pass recomputes them.

    Args:
        hidden: (n, H) final hidden states, contiguous; each predicts the token of the same row.
        head: output embedding and what follows it.
        tokens: (n,) long.
        temperature: of the policy's distribution.
        describe: also computes entropy and `is_top`, with two more passes over the logits.
    """
    return TokenLogProbs(*_TokenLogProbs.apply(hidden, *head, tokens, temperature, describe))


class _TokenLogProbs(torch.autograd.Function):
    """Chunked log-softmax of a linear layer.

    d logits = [g (onehot - p) - g_H p (log p + H)] / temperature, with p the softmax, H its entropy, and g and g_H
    the gradients of log-probability and entropy. Scale and cap add the factor scale (1 - (logits / cap)^2).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
        cap: float | None,
        packed: Tensor | None,
        tokens: Tensor,
        temperature: float,
        describe: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        log_probs = torch.empty(len(tokens), device=hidden.device)
        entropy, is_top = torch.zeros_like(log_probs), torch.zeros_like(tokens, dtype=torch.bool)
        small_hidden, small_weight = hidden.to(dtype), weight.to(dtype)
        small_bias = None if bias is None else bias.to(dtype)
        packed = packed if packed is not None and packed.dtype == dtype else None
        for chunk in _slices(0, len(tokens), CHUNK_TOKENS):
            logits = _products(small_hidden[chunk], small_weight, small_bias, packed)
            for rows, block in _blocks(logits, chunk):
                found = _log_softmax(_scaled_and_capped(block, scale, cap), temperature)
                log_probs[rows] = found.gather(1, tokens[rows, None]).squeeze(1)
                if describe:
                    is_top[rows] = found.argmax(dim=-1) == tokens[rows]
                    entropy[rows] = torch.special.entr(found.exp_()).sum(dim=-1)
        ctx.save_for_backward(hidden, weight, bias, tokens, entropy)
        ctx.scale, ctx.cap, ctx.temperature, ctx.dtype, ctx.packed = scale, cap, temperature, dtype, packed
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*([is_top] if describe else [entropy, is_top]))
        return log_probs, entropy, is_top

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, tokens, entropy = ctx.saved_tensors
        grad = torch.zeros_like(entropy) if grad is None else grad
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        small_hidden, small_weight = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        small_bias = None if bias is None else bias.to(ctx.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk in _slices(0, len(tokens), CHUNK_TOKENS):
                logits = _products(small_hidden[chunk], small_weight, small_bias, ctx.packed)  # become their gradient
                for rows, block in _blocks(logits, chunk):
                    final = _scaled_and_capped(block, ctx.scale, ctx.cap)
                    log_probs = _log_softmax(final, ctx.temperature)
                    described = None if grad_entropy is None else (entropy[rows], grad_entropy[rows])
                    found = _grad_logits(log_probs, tokens[rows], grad[rows], described).div_(ctx.temperature)
                    block.copy_(_grad_products(found, final, ctx.scale, ctx.cap))
                grad_hidden[chunk] = (logits @ small_weight).to(hidden.dtype)
                if grad_weight is not None:
                    grad_weight += (logits.T @ small_hidden[chunk]).to(weight.dtype)
                if grad_bias is not None:
                    grad_bias += logits.sum(dim=0).to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None, None


def _products(hidden: Tensor, weight: Tensor, bias: Tensor | None, packed: Tensor | None) -> Tensor:
    if packed is not None:
        return packed_linear(hidden, packed, bias)
    return hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)


def _scaled_and_capped(products: Tensor, scale: float, cap: float | None) -> Tensor:
    """Returns the logits of W h + b: in float32, or the products themselves if nothing follows them."""
    if scale == 1 and cap is None:
        return products
    logits = products.float() * scale
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


def _grad_products(grad: Tensor, logits: Tensor, scale: float, cap: float | None) -> Tensor:
    """Returns the gradient of W h + b from that of the logits, (n, V), computed in place of `grad`."""
    if cap is not None:
        grad.mul_(1 - (logits / cap).square_())
    return grad if scale == 1 else grad.mul_(scale)


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
