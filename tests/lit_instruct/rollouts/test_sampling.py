"""Tokens from logits: keyed by row, in the right proportion, and never one of probability zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lit_instruct.rollouts import sampling
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.sampling import BLOCK, sample_tokens, uniforms
from tests.lit_instruct.rollouts.chi_square import assert_frequencies


def test_keys_make_thesample_tokens() -> None:
    keys = [(0, 0), (0, 1), (1, 0), (0, 0, 0), (0,), (1,)]
    draws = uniforms(keys, 6)
    assert len({tuple(row) for row in draws.tolist()}) == len(keys)
    assert torch.equal(draws[1:3], uniforms(keys[1:3], 6))
    assert torch.equal(draws[:, :4], uniforms(keys, 4))  # a longer limit changes no earlier draw
    assert ((draws >= 0) & (draws < 1)).all()


def test_neighbouring_keys_are_not_alike() -> None:
    draws = uniforms([(0, iteration, row) for iteration in range(20) for row in range(50)], 2)
    assert draws.mean().item() == pytest.approx(0.5, abs=0.03)
    assert draws.std().item() == pytest.approx(12**-0.5, abs=0.02)
    assert len(set(draws[:, 0].tolist())) == 1000


LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.0, 2.5, -torch.inf]).repeat(4000, 1)
DRAWS = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000


def _frequencies(**options: Any) -> Tensor:
    return sample_tokens(LOGITS, DRAWS, SamplingOptions(**options)).bincount(minlength=6) / 4000


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax(temperature: float) -> None:
    expected = (LOGITS[0] / temperature).softmax(dim=0)
    torch.testing.assert_close(_frequencies(temperature=temperature), expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 1}, [4]),
        ({"top_k": 3}, [1, 3, 4]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.3}, [4]),  # probabilities .50 .30 .11 .07 .02 of tokens 4 1 3 0 2
        ({"top_p": 0.6}, [1, 4]),
        ({"top_p": 0.85}, [1, 3, 4]),
        ({"top_p": 1e-9}, [4]),
        ({"top_p": 0.9, "top_k": 2}, [1, 4]),
        ({"top_p": 0.6, "temperature": 0.1}, [4]),
    ],
)
def test_top_k_and_top_p(options: dict[str, Any], kept: list[int]) -> None:
    logits = LOGITS[0] / options.get("temperature", 1.0)
    allowed = torch.full((6,), -torch.inf).index_copy(0, torch.tensor(kept), logits[kept])
    torch.testing.assert_close(_frequencies(**options), allowed.softmax(dim=0), atol=5e-4, rtol=0)


EDGES = torch.tensor([0.0, 1e-300, 1 - 2**-53, 1 - 2**-25], dtype=torch.float64)


@pytest.mark.parametrize(
    ("logits", "possible"),
    [
        ([-torch.inf, 1.0, 2.0, -torch.inf], {1, 2}),
        ([-200.0, 0.0, 1.0, -200.0], {1, 2}),  # finite, yet its probability is zero in float32
        ([-200.0, 3.0, -200.0, -torch.inf], {1}),
        ([0.0, -200.0, -200.0], {0}),
        ([-200.0, -200.0, 0.0], {2}),
    ],
)
def test_draws_at_the_edge_never_give_an_impossible_token(logits: list[float], possible: set[int]) -> None:
    rows = torch.tensor([logits]).repeat(len(EDGES), 1)
    assert set(sample_tokens(rows, EDGES, SamplingOptions()).tolist()) <= possible


def test_draws_at_the_edge_over_a_large_vocabulary() -> None:
    logits = torch.randn(len(EDGES), 49_152, generator=torch.Generator().manual_seed(0))
    logits[:, -1_000:] = -300.0
    assert (sample_tokens(logits, EDGES, SamplingOptions()) < 48_152).all()


@pytest.mark.parametrize("options", [{}, {"top_k": 700}, {"top_p": 0.98}])
def test_draws_over_many_blocks_pass_a_chi_square_test_that_finds_a_planted_bias(options: dict[str, Any]) -> None:
    logits = 1.5 * torch.randn(3 * BLOCK - 7, generator=torch.Generator().manual_seed(1))
    draws = uniforms([(3, row) for row in range(20_000)], 1)[:, 0]

    def drawn(planted: Tensor) -> Tensor:
        rows = planted.expand(1000, -1)
        parts = [sample_tokens(rows, part, SamplingOptions(**options)) for part in draws.split(1000)]
        return torch.cat(parts)

    tokens = drawn(logits)
    ranked = logits.softmax(dim=0).sort(descending=True)
    kept = options.get("top_k") or int((ranked.values.cumsum(dim=0) - ranked.values < options.get("top_p", 2)).sum())
    expected = logits.index_fill(0, ranked.indices[kept:], -torch.inf).softmax(dim=0)
    assert_frequencies(tokens, expected)
    biased = logits.clone()
    biased[::2] += 0.3
    with pytest.raises(AssertionError):
        assert_frequencies(drawn(biased), expected)
    with pytest.raises(AssertionError):
        assert_frequencies((tokens + 1) % len(logits), expected)


def test_every_draw_finds_the_token_that_a_loop_finds() -> None:
    logits = 2 * torch.randn(64, 2 * BLOCK + 3, generator=torch.Generator().manual_seed(2))
    draws = uniforms([(row,) for row in range(64)], 1)[:, 0]
    cumulative = logits.double().softmax(dim=1).cumsum(dim=1)
    expected = [int((row <= draw).sum()) for row, draw in zip(cumulative, draws, strict=True)]
    assert sample_tokens(logits, draws, SamplingOptions()).tolist() == expected
    assert len(set(expected)) > 30


def test_a_flat_nucleus_is_found_although_few_tokens_are_looked_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(8, 2000, generator=torch.Generator().manual_seed(3)) / 10
    draws = torch.linspace(0, 0.999, 8, dtype=torch.float64)
    expected = sample_tokens(logits, draws, SamplingOptions(top_p=0.9))
    monkeypatch.setattr(sampling, "NUCLEUS", 2)
    assert torch.equal(sample_tokens(logits, draws, SamplingOptions(top_p=0.9)), expected)
    kept = logits.softmax(dim=1).sort(dim=1, descending=True)
    unlikely = kept.values.cumsum(dim=1) - kept.values >= 0.9
    for row, token in enumerate(expected.tolist()):
        assert token not in kept.indices[row][unlikely[row]].tolist()
    last = sample_tokens(logits, torch.full((8,), 1 - 2**-53, dtype=torch.float64), SamplingOptions(top_p=0.9))
    least = (~unlikely).sum(dim=1) - 1
    assert torch.equal(last, kept.indices.gather(1, least[:, None])[:, 0])  # the draw's end is the nucleus' end


def test_logits_that_are_no_numbers_give_some_token() -> None:
    """A diverged model must reach the loss, which reports it, and not end in an index error."""
    logits = torch.full((2, 300), torch.nan)
    tokens = sample_tokens(logits, torch.tensor([0.1, 0.9], dtype=torch.float64), SamplingOptions())
    assert ((tokens >= 0) & (tokens < 300)).all()
