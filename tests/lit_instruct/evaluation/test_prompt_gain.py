"""The gain of a response by a tiny model, against log-probabilities of its own forward."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lit_instruct.evaluation.prompt_gain import PromptGain
from lit_instruct.models.loading import find_source, load_causal_lm, load_tokenizer
from tests.tiny import tiny_llama

PROMPTS = ["What is the capital of France?", "Write a short poem about the wind."]
RESPONSES = ["The capital of France is Paris.", "The weather is wonderful."]


@pytest.fixture(scope="module")
def gain(tmp_path_factory: pytest.TempPathFactory) -> PromptGain:
    source = find_source(str(tiny_llama(tmp_path_factory.mktemp("tiny"))))
    model = load_causal_lm(source, torch.float32)
    with torch.no_grad():  # a tiny random model is almost uniform: sharper logits make gains that clipping meets
        model.get_output_embeddings().weight.mul_(40)
    return PromptGain(model, load_tokenizer(source))


@torch.no_grad()
def by_hand(gain: PromptGain, wanted: str, given: str, alone: str) -> float:
    """The formula of `PromptGain.gains`, one sequence at a time: of a text after one context and after another."""

    def ids(text: str) -> list[int]:
        return gain.tokenizer(text, add_special_tokens=False)["input_ids"]

    def log_probs(context: str) -> torch.Tensor:
        before, text = [gain.tokenizer.bos_token_id, *ids(context)], ids(wanted)
        found = gain.model(torch.tensor([[*before, *text]])).logits[0, len(before) - 1 : -1].log_softmax(-1)
        return found.gather(1, torch.tensor(text)[:, None])[:, 0]

    gained = log_probs(given) - log_probs(alone)
    return float(gained.clamp(-2, 2).sum()) / math.sqrt(len(gained))


def test_the_gain_is_that_of_the_formula(gain: PromptGain) -> None:
    pairs = list(zip(PROMPTS, RESPONSES, strict=True))
    expected = [by_hand(gain, f" {x}", f"Answer: {y}\nQuestion:", "Question:") for x, y in pairs]
    assert len({round(value, 3) for value in expected}) == 2
    assert gain.gains(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-4)


def test_the_gain_of_the_response_is_that_of_the_formula(gain: PromptGain) -> None:
    pairs = list(zip(PROMPTS, RESPONSES, strict=True))
    expected = [by_hand(gain, f" {y}", f"Question: {x}\nAnswer:", "Answer:") for x, y in pairs]
    assert len({round(value, 3) for value in expected}) == 2
    assert gain.response_gains(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-4)


def test_the_gain_depends_neither_on_the_batch_nor_on_earlier_calls(gain: PromptGain) -> None:
    prompts, responses = [*PROMPTS, PROMPTS[0]], [*RESPONSES, RESPONSES[1]]
    together = gain.gains(prompts, responses)
    alone = [gain.gains([prompt], [text])[0] for prompt, text in zip(prompts, responses, strict=True)]
    assert together == pytest.approx(alone, abs=1e-4)
    assert gain.gains(prompts, responses) == together


def test_spaces_around_texts_do_not_matter(gain: PromptGain) -> None:
    assert gain.gains([f" {PROMPTS[0]}\n"], [f"\n{RESPONSES[0]} "]) == pytest.approx(
        gain.gains(PROMPTS[:1], RESPONSES[:1]), abs=1e-4
    )


def test_without_a_prompt_there_is_no_gain(gain: PromptGain) -> None:
    assert gain.gains(["", "  "], ["Anything.", ""]) == [0.0, 0.0]
    assert gain.gains([], []) == []
    assert gain.response_gains(PROMPTS, ["", " "]) == [0.0, 0.0]
    assert gain.response_gains([], []) == []


def test_special_tokens_in_texts_stay_text(gain: PromptGain) -> None:
    end = gain.tokenizer.eos_token
    assert gain.gains(PROMPTS[:1], [end + "."]) != pytest.approx(gain.gains(PROMPTS[:1], ["."]), abs=1e-4)


def test_long_texts_are_cut_to_what_the_model_reads(gain: PromptGain) -> None:
    found = gain.gains(["What is it? " * 30], ["It is a list. " * 300])
    assert math.isfinite(found[0])


def test_from_source_opens_a_folder(tmp_path: Path) -> None:
    found = PromptGain.from_source(str(tiny_llama(tmp_path)), dtype="float32").gains(PROMPTS, RESPONSES)
    assert all(map(math.isfinite, found))
