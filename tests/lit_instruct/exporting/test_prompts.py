"""The prompt format of an export: plain transformers renders the same ids, and stops where the training did."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lit_instruct.exporting.prompts import exported_prompter, generation_config
from lit_instruct.prompting import Prompter
from tests.lit_instruct.prompting.tokenizers import CHATML, llama3, only_end, phi3, with_tokens

PARTS = CHATML.replace("m['content']", "m['content'][0]['text']")
DATED = "{{ strftime_now('%d %b %Y') }}" + CHATML
CLOSED = CHATML.partition("{% if add_generation_prompt")[0]


def made(template: str) -> PreTrainedTokenizerFast:
    return with_tokens(template, eos_token="<|im_end|>", pad_token="<|pad|>")


@pytest.mark.parametrize("system", [None, "Be kind."])
@pytest.mark.parametrize(
    "tokenizer",
    [llama3(), phi3(), made(CHATML), made(PARTS), made(DATED), made(CLOSED)],
    ids=["llama3", "phi3", "chatml", "parts", "date", "opens-nothing"],
)
def test_plain_transformers_renders_the_same_ids(tokenizer: PreTrainedTokenizerFast, system: str | None) -> None:
    prompter = Prompter(tokenizer, system=system)
    exported = exported_prompter(prompter)
    messages = [{"role": "user", "content": prompter.content("a")}]
    theirs = exported.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert theirs == prompter.prompt_ids("a") == exported.prompt_ids("a")
    assert exported.stop_ids == prompter.stop_ids


@pytest.mark.parametrize(
    ("tokenizer", "more", "ids", "pad"),
    [(llama3(), [], [404, 401], 0), (phi3(), [1], [400, 404, 1], 0), (only_end(), [], [2], 2)],
)
def test_every_end_and_the_padding_are_in_the_generation_config(
    tokenizer: Any, more: list[int], ids: list[int], pad: int
) -> None:
    exported = exported_prompter(Prompter(tokenizer, more_stop_ids=more))
    config = generation_config(exported, None)
    assert (config.eos_token_id, config.pad_token_id) == (ids, pad)
    assert generation_config(exported, {"stop_ids": [7]}).eos_token_id == [*ids, 7]
