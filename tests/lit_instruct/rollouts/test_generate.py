"""Sampling: keyed by row, equal to a naive loop, and never a token of probability zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lit_instruct.batches import Responses, left_pad
from lit_instruct.errors import UserError
from lit_instruct.rollouts.generate import SamplingOptions, _sample, _uniforms, generate

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14], [15]]
KEYS = [(0, 3), (0, 1), (0, 7), (5, 1)]
PAD = 0


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> nn.Module:
    """The tiny model with larger weights: as it is, every token is about as probable as the next, wherever it is."""
    model = AutoModelForCausalLM.from_pretrained(str(tiny_model)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_proj" in name:
                weight.mul_(10)
        model.get_input_embeddings().weight.mul_(15)  # tied to the output embedding
    return model


def _generate(
    model: nn.Module, rows: list[int], stop: tuple[int, ...] = (2,), pad: int = 0, **options: Any
) -> Responses:
    ids, mask = left_pad([PROMPTS[row] for row in rows], PAD)
    ids, mask = nn.functional.pad(ids, (pad, 0)), nn.functional.pad(mask, (pad, 0))
    sampling = SamplingOptions(**{"max_new_tokens": 8} | options)
    return generate(model, ids, mask, sampling, stop, [KEYS[row] for row in rows], PAD)


def _rows(responses: Responses) -> list[list[int]]:
    return [ids[mask].tolist() for ids, mask in zip(*responses, strict=True)]


def _naive(model: nn.Module, row: int, temperature: float, stop: int, length: int = 8) -> list[int]:
    """No cache, no padding, no batch."""
    ids: list[int] = []
    with torch.no_grad():
        for draw in _uniforms([KEYS[row]], length)[0]:
            logits = model(torch.tensor([PROMPTS[row] + ids])).logits[0, -1].double()
            cumulative = (logits / temperature).softmax(dim=0).cumsum(dim=0)
            ids.append(int((cumulative <= draw).sum()))
            if ids[-1] == stop:
                break
    return ids


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_a_naive_loop(model: nn.Module, temperature: float) -> None:
    sampled = _rows(_generate(model, [0, 1, 2, 3], temperature=temperature))
    assert sampled == [_naive(model, row, temperature, stop=2) for row in range(4)]


def test_neighbours_order_and_padding_do_not_matter(model: nn.Module) -> None:
    together = _rows(_generate(model, [0, 1, 2, 3]))
    assert len({tuple(row) for row in together}) == 4
    assert [_rows(_generate(model, [row]))[0] for row in range(4)] == together
    assert _rows(_generate(model, [3, 2, 1, 0])) == together[::-1]
    assert _rows(_generate(model, [0, 1, 2, 3], pad=6)) == together


def test_keys_make_the_sample() -> None:
    keys = [(0, 0), (0, 1), (1, 0), (0, 0, 0), (0,), (1,)]
    draws = _uniforms(keys, 6)
    assert len({tuple(row) for row in draws.tolist()}) == len(keys)
    assert torch.equal(draws[1:3], _uniforms(keys[1:3], 6))
    assert torch.equal(draws[:, :4], _uniforms(keys, 4))  # a longer limit changes no earlier draw
    assert ((draws >= 0) & (draws < 1)).all()


def test_neighbouring_keys_are_not_alike() -> None:
    draws = _uniforms([(0, iteration, row) for iteration in range(20) for row in range(50)], 2)
    assert draws.mean().item() == pytest.approx(0.5, abs=0.03)
    assert draws.std().item() == pytest.approx(12**-0.5, abs=0.02)
    assert len(set(draws[:, 0].tolist())) == 1000


def test_low_temperature_is_greedy(model: nn.Module) -> None:
    ids, mask = left_pad(PROMPTS, PAD)
    expected = model.generate(
        ids, attention_mask=mask.long(), do_sample=False, max_new_tokens=8, pad_token_id=PAD, eos_token_id=2
    )[:, ids.shape[1] :]
    sampled = _generate(model, [0, 1, 2, 3], temperature=1e-5)
    assert sampled.ids.tolist() == expected.tolist()


def test_stop_ids_end_a_row(model: nn.Module) -> None:
    free = _rows(_generate(model, [0, 1, 2, 3], stop=()))
    assert [len(row) for row in free] == [8] * 4
    stops = (free[0][2], free[1][5])
    responses = _generate(model, [0, 1, 2, 3], stop=stops)
    cut = [next((i + 1 for i, token in enumerate(row) if token in stops), 8) for row in free]
    assert _rows(responses) == [row[:length] for row, length in zip(free, cut, strict=True)]
    assert cut[0] <= 3
    assert (responses.ids[~responses.mask] == PAD).all()
    assert torch.equal(responses.mask, torch.arange(responses.mask.shape[1]) < torch.tensor(cut)[:, None])


def test_it_stops_when_all_rows_have(model: nn.Module) -> None:
    first = _rows(_generate(model, [0, 1], stop=()))
    responses = _generate(model, [0, 1], stop=(first[0][0], first[1][1]))
    assert responses.ids.shape[1] <= 2


def test_limit_is_kept(model: nn.Module) -> None:
    assert _generate(model, [0, 1], stop=(), max_new_tokens=1).ids.shape == (2, 1)
    short, long = _rows(_generate(model, [0], max_new_tokens=3)), _rows(_generate(model, [0]))
    assert short[0] == long[0][:3]


LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.0, 2.5, -torch.inf]).repeat(4000, 1)
DRAWS = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000


def _frequencies(**options: Any) -> Tensor:
    return _sample(LOGITS, DRAWS, SamplingOptions(**options)).bincount(minlength=6) / 4000


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
    assert set(_sample(rows, EDGES, SamplingOptions()).tolist()) <= possible


def test_draws_at_the_edge_over_a_large_vocabulary() -> None:
    logits = torch.randn(len(EDGES), 49_152, generator=torch.Generator().manual_seed(0))
    logits[:, -1_000:] = -300.0
    assert (_sample(logits, EDGES, SamplingOptions()) < 48_152).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"top_k": -1}, "top_k=-1"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SamplingOptions(**options)
