"""Text in, text out: independent of batches, and log-probabilities as plain transformers gives them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompt
from lit_instruct.rollouts.text import Response, TextGenerator
from tests.lit_instruct.rollouts.stage_folders import sft_folder

PROMPTS: list[Prompt] = [
    "Hello",
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital of France?"}],
    "Write a poem about the sea and the wind.",
]


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return sft_folder(tmp_path_factory.mktemp("text") / "sft", tiny_model)


@pytest.fixture(scope="module")
def generator(sft: Path) -> TextGenerator:
    return TextGenerator.from_source(str(sft), dtype="float32")


def test_batches_do_not_change_the_responses(generator: TextGenerator) -> None:
    expected = generator.respond(PROMPTS, k=3, max_new_tokens=6)
    for size in (1, 2, 5):
        assert generator.respond(PROMPTS, k=3, max_new_tokens=6, batch_size=size) == expected
    assert generator.respond(PROMPTS, k=3, max_new_tokens=6, seed=1) != expected


def test_more_samples_keep_the_first_ones_and_differ(generator: TextGenerator) -> None:
    few, many = (generator.respond(PROMPTS, k=k, max_new_tokens=6) for k in (2, 5))
    assert [row[:2] for row in many] == few
    for row in many:
        assert len({tuple(response.ids) for response in row}) == 5
    twice = generator.respond(["Hello", "Hello"], max_new_tokens=6)
    assert twice[0] != twice[1]


def test_stop_ids_and_stop_strings_end_a_response(generator: TextGenerator) -> None:
    [[free]] = generator.respond(PROMPTS[:1], max_new_tokens=12)
    [[by_id]] = generator.respond(PROMPTS[:1], max_new_tokens=12, stop_ids=[free.ids[2]])
    assert by_id.ids == free.ids[: free.ids.index(free.ids[2]) + 1]
    assert by_id.ended
    string = free.text[4:6]
    [[by_string]] = generator.respond(PROMPTS[:1], max_new_tokens=12, stop_strings=[string])
    assert by_string.ended
    assert by_string.ids == free.ids[: len(by_string.ids)] != free.ids
    assert by_string.text == free.text[: free.text.index(string)].strip()


def test_response_says_what_it_is(generator: TextGenerator) -> None:
    prompter = generator.prompter
    [[cut]] = generator.respond(PROMPTS[:1], max_new_tokens=3)
    assert cut == Response(cut.ids, prompter.decode(cut.ids), False)
    assert len(cut.ids) == 3
    prompter.stop_ids.append(cut.ids[1])
    try:
        [[ended]] = generator.respond(PROMPTS[:1], max_new_tokens=3)
    finally:
        prompter.stop_ids.pop()
    assert ended.ids == cut.ids[:2]
    assert ended.ended


def test_log_probs_are_those_of_plain_peft(generator: TextGenerator, sft: Path, tiny_model: Path) -> None:
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(tiny_model)), str(sft)).eval()
    eos = generator.prompter.eos_id
    responses = [Response([20, 21, eos], "", True), Response([22], "", False), Response([23, 24], "", False)]
    expected = []
    for prompt, response in zip(PROMPTS, responses, strict=True):
        ids = generator.prompter.prompt_ids(prompt)
        with torch.no_grad():
            logits = plain(torch.tensor([ids + response.ids])).logits[0, len(ids) - 1 : -1]
        expected.append(logits.log_softmax(dim=-1)[range(len(response.ids)), response.ids].sum().item())
    for size in (1, 2, 32):
        assert generator.log_probs(PROMPTS, responses, batch_size=size) == pytest.approx(expected, abs=1e-4)


def test_progress_shows_and_changes_nothing(generator: TextGenerator) -> None:
    shown = generator.respond(PROMPTS, max_new_tokens=2, batch_size=1, progress="sampling")
    assert shown == generator.respond(PROMPTS, max_new_tokens=2)


def test_prompts_and_responses_must_pair(generator: TextGenerator) -> None:
    with pytest.raises(ValueError, match="zip"):
        generator.log_probs(PROMPTS, [Response([3], "", False)])


def test_from_source_keeps_the_recorded_format(generator: TextGenerator, sft: Path) -> None:
    assert generator.prompter.kind == "chat"
    assert not any("lora" in name for name, _ in generator.model.named_parameters())
    other = TextGenerator.from_source(str(sft), dtype="bfloat16")
    assert other.model.dtype == torch.bfloat16


def test_missing_model_is_one_sentence() -> None:
    with pytest.raises(UserError, match="runs/none/sft: no such folder"):
        TextGenerator.from_source("runs/none/sft")
