"""Scalar head and chunked log-probabilities against the plain formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lit_instruct.models import heads
from lit_instruct.models.heads import OutputHead, ScoreHead, token_log_probs


def _inputs(n: int = 23) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 8, generator=generator)
    weight = torch.randn(50, 8, generator=generator)
    return hidden, weight, torch.randint(50, (n,), generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("train_weight", [True, False])
def test_equals_log_softmax(monkeypatch: pytest.MonkeyPatch, temperature: float, train_weight: bool) -> None:
    monkeypatch.setattr(heads, "CHUNK_TOKENS", 5)  # five chunks, the last one shorter
    monkeypatch.setattr(heads, "CACHED_TOKENS", 2)
    hidden, weight, tokens = _inputs()
    inputs = [hidden.requires_grad_(), *([weight.requires_grad_()] if train_weight else [])]
    chosen, entropy, is_top = token_log_probs(hidden, OutputHead(weight), tokens, temperature, describe=True)
    expected = (hidden @ weight.T / temperature).log_softmax(dim=-1)
    expected_chosen = expected.gather(1, tokens[:, None]).squeeze(1)
    torch.testing.assert_close(chosen, expected_chosen)
    assert torch.equal(is_top, expected.argmax(dim=1) == tokens)
    exact = torch.distributions.Categorical(logits=hidden @ weight.T / temperature).entropy()
    torch.testing.assert_close(entropy, exact)
    up = torch.linspace(-1, 1, len(tokens))
    actual_grads = torch.autograd.grad((chosen * up).sum(), inputs)
    for actual, wanted in zip(actual_grads, torch.autograd.grad((expected_chosen * up).sum(), inputs), strict=True):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_log_probs", [True, False])
def test_the_entropy_has_its_gradient(
    monkeypatch: pytest.MonkeyPatch, temperature: float, with_log_probs: bool
) -> None:
    monkeypatch.setattr(heads, "CHUNK_TOKENS", 5)
    hidden, weight, tokens = _inputs()
    inputs, up = [hidden.requires_grad_(), weight.requires_grad_()], torch.linspace(-1, 1, len(tokens))
    chosen, entropy, _ = token_log_probs(hidden, OutputHead(weight), tokens, temperature, describe=True)
    exact = torch.distributions.Categorical(logits=hidden @ weight.T / temperature)
    ours, theirs = (entropy * up).sum(), (exact.entropy() * up).sum()
    if with_log_probs:
        ours, theirs = ours + 3 * chosen.sum(), theirs + 3 * exact.log_prob(tokens).sum()
    for actual, wanted in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(actual, wanted)


def test_without_being_asked_only_log_probabilities_have_a_gradient() -> None:
    hidden, weight, tokens = _inputs()
    result = token_log_probs(hidden.requires_grad_(), OutputHead(weight), tokens)
    assert [part.requires_grad for part in result] == [True, False, False]


def test_the_most_probable_token_is_top() -> None:
    hidden, weight, _ = _inputs()
    best = (hidden @ weight.T).argmax(dim=1)
    assert token_log_probs(hidden, OutputHead(weight), best, describe=True).is_top.all()
    assert not token_log_probs(hidden, OutputHead(weight), (best + 1) % 50, describe=True).is_top.any()


def test_chunks_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, tokens = _inputs()
    whole = token_log_probs(hidden, OutputHead(weight), tokens, describe=True)
    monkeypatch.setattr(heads, "CHUNK_TOKENS", 7)
    monkeypatch.setattr(heads, "CACHED_TOKENS", 3)
    for part, expected in zip(token_log_probs(hidden, OutputHead(weight), tokens, describe=True), whole, strict=True):
        torch.testing.assert_close(part, expected)


def test_no_tokens() -> None:
    hidden, weight, tokens = _inputs()
    assert [part.shape for part in token_log_probs(hidden[:0], OutputHead(weight), tokens[:0])] == [(0,)] * 3


def test_bfloat16_gives_float32() -> None:
    hidden, weight, tokens = _inputs()
    rough, exact = (
        token_log_probs(hidden.bfloat16(), OutputHead(weight.bfloat16()), tokens, describe=True),
        token_log_probs(hidden, OutputHead(weight), tokens, describe=True),
    )
    for part, expected in zip(rough[:2], exact[:2], strict=True):
        assert part.dtype == torch.float32
        torch.testing.assert_close(part, expected, atol=0.1, rtol=0.02)


def test_score_head_computes_in_float32() -> None:
    torch.manual_seed(0)
    head, hidden = ScoreHead(16, 1, bias=False), torch.randn(2, 3, 16).bfloat16()
    expected = hidden.float() @ head.weight.T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(hidden)
    for scores in (inside, head(hidden), head.to(torch.float32)(hidden.float())):
        assert scores.dtype == torch.float32
        assert scores.shape == (2, 3, 1)
        torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)


def test_like_copies() -> None:
    linear = nn.Linear(6, 1, bias=True).bfloat16()
    head = ScoreHead.like(linear)
    assert head.weight.dtype == torch.float32
    assert torch.equal(head.weight, linear.weight.float())
    assert torch.equal(head.bias, linear.bias.float())


def test_fresh_like_draws_new_weights() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(4095, 1)
    head = ScoreHead.like(linear, fresh=True)
    assert not torch.equal(head.weight, linear.weight)
    assert head.weight.std().item() == pytest.approx(1 / 64, rel=0.05)
    assert head.bias.item() == 0.0
