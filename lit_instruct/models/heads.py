"""What sits on top of the trunk: the scalar head of reward and value, and token log-probabilities."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK_TOKENS = 256
"""Tokens whose logits exist at one time; 256 x 49k x 4 bytes is 50 MB."""


class ScoreHead(nn.Linear):
    """A scalar head that always computes in float32: bfloat16 would turn close rewards into ties."""

    @classmethod
    def like(cls, linear: nn.Linear, fresh: bool = False) -> ScoreHead:
        """Returns a head with the weights of `linear` in float32.

        Args:
            linear: (H -> 1) head.
            fresh: draws new weights from N(0, 1/(H+1)) instead.
        """
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
    """What a language model says of n tokens."""

    log_probs: Tensor
    """(n,) float32, log-probability of the token in nats, with gradient."""
    entropy: Tensor
    """(n,) float32, entropy of the distribution in nats."""
    is_top: Tensor
    """(n,) bool, whether the token is the most probable one."""


def token_log_probs(hidden: Tensor, output_weight: Tensor, tokens: Tensor, temperature: float = 1.0) -> TokenLogProbs:
    """Returns log softmax(W h / temperature)[token] and what else the logits tell, chunk by chunk.

    Never holds more than a chunk of the (n, V) logits, forwards or backwards.

    Args:
        hidden: (n, H) final hidden states, contiguous; each predicts the token beside it.
        output_weight: (V, H) weight of the output embedding.
        tokens: (n,) long.
        temperature: of the policy's distribution.
    """
    parts = []
    for start in range(0, len(tokens), CHUNK_TOKENS):
        piece = (
            hidden[start : start + CHUNK_TOKENS],
            output_weight,
            tokens[start : start + CHUNK_TOKENS],
            temperature,
        )
        if torch.is_grad_enabled() and hidden.requires_grad:
            parts.append(checkpoint(_chunk_log_probs, *piece, use_reentrant=False))
        else:
            parts.append(_chunk_log_probs(*piece))
    log_probs, entropy, is_top = torch.cat(parts, dim=1) if parts else hidden.new_zeros(3, 0, dtype=torch.float32)
    return TokenLogProbs(log_probs, entropy.detach(), is_top.detach() > 0)


def _chunk_log_probs(hidden: Tensor, output_weight: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    logits = (hidden.to(output_weight.dtype) @ output_weight.T).float() / temperature
    normaliser = logits.logsumexp(dim=-1)
    chosen = logits.gather(-1, tokens[:, None]).squeeze(-1)
    with torch.no_grad():
        entropy = normaliser - ((logits - normaliser[:, None]).exp() * logits).sum(dim=-1)
        is_top = (logits.argmax(dim=-1) == tokens).float()
    return torch.stack([chosen - normaliser, entropy, is_top])
