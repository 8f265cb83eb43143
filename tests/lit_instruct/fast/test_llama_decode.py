"""Our own decode step against the model's forward over whole sequences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lit_instruct.batches import left_pad, position_ids, right_pad
from lit_instruct.fast import llama_decode
from lit_instruct.fast.llama_decode import LlamaDecoding, similar_length_parts
from lit_instruct.models.assemble import ppo_roles
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions
from tests.lit_instruct.rollouts.stage_folders import sft_folder

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15], [16, 17]]
NEXT = [[20, 21, 22, 23, 24, 25], [26, 27, 28, 29, 30, 31], [32, 33, 34, 35, 36, 37], [38, 39, 40, 41, 42, 43]]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(str(tiny_model)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_proj" in name:
                weight.mul_(10)  # so that attention matters
    return model


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def _whole(model: nn.Module, row: int) -> Tensor:
    """Logits after the prompt and after each further token, without padding, batch or cache: (1 + R, V)."""
    logits = model(torch.tensor([PROMPTS[row] + NEXT[row]])).logits[0]
    return logits[len(PROMPTS[row]) - 1 :]


def _decoded(model: nn.Module, rows: list[int], extra_padding: int = 0) -> Tensor:
    ids, mask = left_pad([PROMPTS[row] for row in rows], 0)
    ids, mask = nn.functional.pad(ids, (extra_padding, 0)), nn.functional.pad(mask, (extra_padding, 0))
    decoding = LlamaDecoding(model, 6)
    logits = [decoding.start(ids, mask)]
    logits += [decoding.step(tokens) for tokens in torch.tensor([NEXT[row] for row in rows]).unbind(dim=1)]
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("rows", [[0], [0, 1, 2, 3], [3, 1, 0], [2, 2, 1, 2]])
def test_equals_the_forward_of_whole_sequences(model: nn.Module, rows: list[int]) -> None:
    decoded = _decoded(model, rows)
    for row, logits in zip(rows, decoded, strict=True):
        torch.testing.assert_close(logits, _whole(model, row), atol=1e-5, rtol=1e-5)
    wrong = _whole(model, rows[0])
    assert (decoded[0, 1:] - wrong[:-1]).abs().max() > 0.01  # a shift by one token is noticed


def test_padding_does_not_matter(model: nn.Module) -> None:
    torch.testing.assert_close(_decoded(model, [0, 2], extra_padding=5), _decoded(model, [0, 2]), atol=1e-5, rtol=1e-5)


def test_the_cache_grows(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _decoded(model, [0, 1, 2, 3])
    monkeypatch.setattr(llama_decode, "CACHE_TOKENS", 1)
    decoding = LlamaDecoding(model, 40)
    ids, mask = left_pad(PROMPTS, 0)
    decoding.start(ids, mask)
    rooms = [decoding.cache.keys.shape[-1]]
    for step, tokens in enumerate(torch.tensor(NEXT * 6).view(6, 4, 6).permute(0, 2, 1).flatten(0, 1)):
        logits = decoding.step(tokens)
        rooms.append(decoding.cache.keys.shape[-1])
        if step < 6:
            torch.testing.assert_close(logits, expected[:, step + 1], atol=1e-5, rtol=1e-5)
    assert sorted(set(rooms)) == [8, 16, 32, 47]  # doubles, up to the limit


@pytest.mark.parametrize("kept", [[0, 3, 2], [1], [3, 1], [0, 1]])
def test_kept_rows_continue(model: nn.Module, kept: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_decode, "CACHE_TOKENS", 3)  # so that the cache also grows after rows were dropped
    ids, mask = left_pad(PROMPTS, 0)
    decoding, tokens = LlamaDecoding(model, 6), torch.tensor(NEXT)
    decoding.start(ids, mask)
    for step in range(2):
        decoding.step(tokens[:, step])
    decoding.keep(torch.tensor(kept))
    for step in range(2, 6):
        logits = decoding.step(tokens[kept, step])
        if step == 3 and len(kept) > 1:
            kept = kept[::-1]
            decoding.keep(torch.arange(len(kept)).flip(0))
            logits = logits.flip(0)
        expected = torch.stack([_whole(model, row)[step + 1] for row in kept])
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_prompts_of_similar_length_are_read_together_and_equal_ones_once(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _decoded(model, [2, 0, 2, 1])
    monkeypatch.setattr(llama_decode, "PART_TOKENS", 1)
    shapes: list[tuple[int, ...]] = []
    handle = model.model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    try:
        decoded = _decoded(model, [2, 0, 2, 1])
    finally:
        handle.remove()
    assert shapes == [(1, 7), (1, 3), (1, 1)]
    torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=1e-5)


def test_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def parts(*lengths: int) -> list[list[int]]:
        return [part.tolist() for part in similar_length_parts(torch.tensor(lengths))]

    assert parts(10, 40, 20, 40) == [[1, 3, 2, 0]]  # too few tokens to split
    monkeypatch.setattr(llama_decode, "PART_TOKENS", 80)
    assert parts(10, 40, 20, 40) == [[1, 3], [2, 0]]
    assert parts(33, 40, 32, 40) == [[1, 3, 0, 2]]
    assert parts(7) == [[0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_and_autocast_are_as_close_as_the_models_own_forward(tiny_model: Path, dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(tiny_model), dtype=dtype).eval()
    exact = AutoModelForCausalLM.from_pretrained(str(tiny_model), dtype=torch.float32).eval()
    expected = torch.stack([_whole(exact, row) for row in range(4)])
    with torch.autocast("cpu", torch.bfloat16):
        decoded = _decoded(model, [0, 1, 2, 3])
        ids, mask = right_pad([prompt + more for prompt, more in zip(PROMPTS, NEXT, strict=True)], 0)
        whole = model(ids, attention_mask=mask.long(), position_ids=position_ids(mask)).logits
    whole = torch.stack([row[len(prompt) - 1 :][:7] for row, prompt in zip(whole, PROMPTS, strict=True)])
    assert decoded.dtype == torch.bfloat16
    assert (decoded - expected).norm() < 1.5 * (whole - expected).norm()
    assert (decoded - expected).norm() > 0


def test_an_adapter_that_is_not_merged_counts(tiny_model: Path, tmp_path: Path) -> None:
    """As on 4-bit bases, whose adapters are not merged."""
    sft = sft_folder(tmp_path / "sft", tiny_model)
    roles = ppo_roles(find_source(str(sft)), [], LoraOptions(r=6, alpha=8.0), torch.float32)
    network = roles.language_model("policy")
    for name, weight in network.named_parameters():
        if "lora_" in name:
            weight.normal_(std=0.3)
    roles.activate("policy")
    with_adapter = _decoded(network, [0, 1])
    torch.testing.assert_close(with_adapter[0], _whole(network, 0), atol=1e-4, rtol=1e-4)
    roles.activate("reference")
    assert not torch.allclose(_decoded(network, [0, 1]), with_adapter, atol=1e-2)
