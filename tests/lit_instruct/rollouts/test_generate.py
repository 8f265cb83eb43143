"""Responses: equal to a naive loop and to transformers' generate, independent of neighbours, ended in time."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from lit_instruct.batches import Responses, left_pad
from lit_instruct.errors import UserError
from lit_instruct.fast.llama_decode import LlamaDecoding
from lit_instruct.models.embedded import NAME, resolve
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts import decode
from lit_instruct.rollouts.decode import ModelDecoding
from lit_instruct.rollouts.generate import LOOK_EVERY, SamplingOptions, compacted_rows, generate
from lit_instruct.rollouts.sampling import uniforms
from lit_instruct.rollouts.stopping import StopRule
from tests.lit_instruct.rollouts.chi_square import assert_frequencies

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14], [15]]
KEYS = [(0, 3), (0, 1), (0, 7), (5, 1)]
PAD = 0


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> nn.Module:
    """The tiny model with larger weights: its own give every token about the same probability everywhere."""
    model = AutoModelForCausalLM.from_pretrained(str(tiny_model)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_proj" in name:
                weight.mul_(10)
        model.get_input_embeddings().weight.mul_(15)  # tied to the output embedding
    return model


@pytest.fixture(params=["own loop", "model's forward"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to decode."""
    if request.param != "own loop":
        monkeypatch.setattr(decode, "fits_llama_decoding", lambda model: False)
    return request.param


def _stop(*ids: int) -> StopRule:
    return StopRule(ids, [], str)


def _generate(
    model: nn.Module, rows: list[int], stop: tuple[int, ...] = (2,), pad: int = 0, **options: Any
) -> Responses:
    ids, mask = left_pad([PROMPTS[row] for row in rows], PAD)
    ids, mask = nn.functional.pad(ids, (pad, 0)), nn.functional.pad(mask, (pad, 0))
    sampling = SamplingOptions(**{"max_new_tokens": 8} | options)
    return generate(model, ids, mask, sampling, _stop(*stop), [KEYS[row] for row in rows], PAD)


def _rows(responses: Responses) -> list[list[int]]:
    return [ids[mask].tolist() for ids, mask in zip(*responses, strict=True)]


def _naive(model: nn.Module, row: int, temperature: float, stop: int, length: int = 8) -> list[int]:
    """No cache, no padding, no batch."""
    ids: list[int] = []
    with torch.no_grad():
        for draw in uniforms([KEYS[row]], length)[0]:
            logits = model(torch.tensor([PROMPTS[row] + ids])).logits[0, -1].double()
            cumulative = (logits / temperature).softmax(dim=0).cumsum(dim=0)
            ids.append(int((cumulative <= draw).sum()))
            if ids[-1] == stop:
                break
    return ids


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_a_naive_loop(model: nn.Module, way: str, temperature: float) -> None:
    sampled = _rows(_generate(model, [0, 1, 2, 3], temperature=temperature))
    assert sampled == [_naive(model, row, temperature, stop=2) for row in range(4)]


def test_neighbours_order_and_padding_do_not_matter(model: nn.Module, way: str) -> None:
    together = _rows(_generate(model, [0, 1, 2, 3]))
    assert len({tuple(row) for row in together}) == 4
    assert [_rows(_generate(model, [row]))[0] for row in range(4)] == together
    assert _rows(_generate(model, [3, 2, 1, 0])) == together[::-1]
    assert _rows(_generate(model, [0, 1, 2, 3], pad=6)) == together


@pytest.mark.parametrize("greedy", [{"temperature": 1e-5}, {"top_k": 1}])
def test_greedy_equals_transformers_generate(model: nn.Module, way: str, greedy: dict[str, Any]) -> None:
    ids, mask = left_pad(PROMPTS, PAD)
    expected = model.generate(
        ids, attention_mask=mask.long(), do_sample=False, max_new_tokens=40, pad_token_id=PAD, eos_token_id=2
    )[:, ids.shape[1] :]
    sampled = _generate(model, [0, 1, 2, 3], max_new_tokens=40, **greedy)
    assert sampled.ids.tolist() == expected.tolist()
    assert len({tuple(row) for row in expected.tolist()}) == 4


@pytest.mark.slow
def test_greedy_on_the_embedded_model_equals_transformers_generate() -> None:
    folder = resolve(NAME)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompter = Prompter(AutoTokenizer.from_pretrained(folder))
    texts = ["What is the capital of France?", "Say hi.", "List three colours.", "Write one line about the sea."]
    ids, mask = left_pad([prompter.prompt_ids(text) for text in texts], prompter.pad_id)
    expected = model.generate(
        ids,
        attention_mask=mask.long(),
        do_sample=False,
        max_new_tokens=32,
        pad_token_id=prompter.pad_id,
        eos_token_id=prompter.stop_ids,
    )[:, ids.shape[1] :]
    options = SamplingOptions(max_new_tokens=32, top_k=1)
    keys = [(row,) for row in range(4)]
    sampled = generate(model, ids, mask, options, options.stop_rule(prompter), keys, prompter.pad_id)
    assert sampled.ids.tolist() == expected.tolist()
    assert "Paris" in prompter.decode(sampled.ids[0])
    assert decode.fits_llama_decoding(model)


def test_first_and_second_tokens_are_drawn_in_the_right_proportion(model: nn.Module, way: str) -> None:
    """4,000 samples of one prompt; the test also shows that it notices wrong proportions."""
    ids, mask = left_pad([PROMPTS[0]] * 4000, PAD)
    sampling = SamplingOptions(max_new_tokens=2, temperature=1.2)
    keys = [(9, row) for row in range(4000)]
    tokens = generate(model, ids, mask, sampling, _stop(), keys, PAD).ids
    with torch.no_grad():
        first = (model(ids[:1]).logits[0, -1] / 1.2).softmax(dim=0)
        common = int(first.argmax())
        after = torch.tensor([[*PROMPTS[0], common]])
        second = (model(after).logits[0, -1] / 1.2).softmax(dim=0)
    assert_frequencies(tokens[:, 0], first)
    assert_frequencies(tokens[tokens[:, 0] == common, 1], second)
    biased = torch.log(first)
    biased[common] += 0.5
    with pytest.raises(AssertionError):
        assert_frequencies(tokens[:, 0], biased.softmax(dim=0))


def test_stop_ids_end_a_row(model: nn.Module, way: str) -> None:
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


def test_finished_rows_are_dropped(model: nn.Module, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Of four rows one ends at the second token, one at the fourth, one at the sixth; the batch shrinks each time."""
    free = _rows(_generate(model, [0, 1, 2, 3], stop=()))
    stops = (free[0][1], free[1][3], free[2][5])
    cut = [next((i + 1 for i, token in enumerate(row) if token in stops), 8) for row in free]
    kind = LlamaDecoding if way == "own loop" else ModelDecoding
    widths, step = [], kind.step

    def watched(self: Any, tokens: torch.Tensor) -> torch.Tensor:
        widths.append(len(tokens))
        return step(self, tokens)

    monkeypatch.setattr(kind, "step", watched)
    dropped = _rows(_generate(model, [0, 1, 2, 3], stop=stops))
    assert dropped == [row[:length] for row, length in zip(free, cut, strict=True)]
    assert len(set(cut)) >= 3
    assert widths == [sum(length > step for length in cut) for step in range(1, max(cut))]


def test_most_remaining_rows_keep_their_place() -> None:
    assert compacted_rows([True, False, True, True]).tolist() == [0, 3, 2]
    assert compacted_rows([False, False, True, True, False, True]).tolist() == [3, 5, 2]
    assert compacted_rows([True, True, False]).tolist() == [0, 1]


def _text_of(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def test_stop_strings_end_a_row(model: nn.Module, tiny_model: Path, way: str) -> None:
    prompter = Prompter(AutoTokenizer.from_pretrained(str(tiny_model)))
    ids, mask = left_pad(PROMPTS, PAD)
    keys, plain = KEYS, SamplingOptions(max_new_tokens=24)

    def texts(options: SamplingOptions) -> tuple[list[list[int]], StopRule]:
        rule = options.stop_rule(prompter)
        return _rows(generate(model, ids, mask, options, rule, keys, PAD)), rule

    free, _ = texts(plain)
    whole = [_text_of(prompter.tokenizer, row) for row in free]
    string = whole[0][3:6]  # of several tokens, or parts of tokens
    cut, rule = texts(SamplingOptions(max_new_tokens=24, stop_strings=[string]))
    assert len(cut[0]) < len(free[0])
    for row, text, before in zip(cut, whole, free, strict=True):
        assert row == before[: len(row)]
        if string in text:
            assert string in _text_of(prompter.tokenizer, row)
            assert string not in _text_of(prompter.tokenizer, row[:-1])
            assert rule.ended(row)
            assert rule.text(row) == text[: text.index(string)].strip()
        else:
            assert row == before


def test_every_rank_of_fsdp_takes_the_same_steps(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every forward is a collective there, so no rank may stop early or take another decode loop than the others."""
    free = _rows(_generate(model, [0, 1, 2, 3], stop=()))
    expected = _generate(model, [0, 1, 2, 3], stop=tuple(row[0] for row in free))
    monkeypatch.setattr(decode, "is_sharded", lambda model: True)
    monkeypatch.setattr("lit_instruct.rollouts.generate.is_sharded", lambda model: True)
    model = copy.deepcopy(model)  # for which no decode loop was chosen yet
    forwards: list[int] = []
    handle = model.register_forward_hook(lambda *_: forwards.append(1))
    try:
        responses = _generate(model, [0, 1, 2, 3], stop=tuple(row[0] for row in free))
    finally:
        handle.remove()
    assert len(forwards) == 8
    assert _rows(responses) == _rows(expected) == [row[:1] for row in free]
    assert responses.ids.shape == (4, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"top_k": -1}, "top_k=-1"),
        ({"stop_ids": [5, -1]}, "stop_ids="),
        ({"stop_strings": ["x", ""]}, "stop_strings"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SamplingOptions(**options)


@pytest.mark.parametrize("every", [3, 16])
def test_how_often_the_host_looks_does_not_matter(
    model: nn.Module, tiny_model: Path, way: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows go on after their end until the next look; nothing of that is left, after an id or a string."""
    prompter = Prompter(AutoTokenizer.from_pretrained(str(tiny_model)))
    ids, mask = left_pad(PROMPTS, PAD)
    for strings in ([], ["e", "."]):
        options = SamplingOptions(max_new_tokens=20, stop_strings=strings)
        stop = StopRule([*range(2, 60)], strings, prompter.decode_as_is)
        found = []
        for looks in (1, every):
            monkeypatch.setitem(LOOK_EVERY, "cpu", looks)
            found.append(generate(model, ids, mask, options, stop, KEYS, PAD))
        assert len(set(found[0].mask.sum(dim=1).tolist())) > 1
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
