"""Prompts and responses as ids: where they end, what the template may add, what text may not do."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter, prompt_text
from tests.tiny import DEFAULT_SYSTEM, tiny_tokenizer

EMPTY_SYSTEM = "<|im_start|>system\n<|im_end|>\n"


def text(prompter: Prompter, ids: list[int]) -> str:
    return prompter.tokenizer.decode(ids)


def with_template(template: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_plain_text_becomes_one_user_message_without_the_default_system_prompt():
    prompter = Prompter(tiny_tokenizer())
    rendered = text(prompter, prompter.prompt_ids("the sea"))
    assert rendered == EMPTY_SYSTEM + "<|im_start|>user\nthe sea<|im_end|>\n<|im_start|>assistant\n"
    assert DEFAULT_SYSTEM not in rendered


def test_prompt_and_response_together_are_the_template_up_to_eos():
    prompter = Prompter(tiny_tokenizer())
    ids = prompter.prompt_ids("the sea") + prompter.response_ids("the wind.")
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "the sea"},
        {"role": "assistant", "content": "the wind."},
    ]
    whole = prompter.tokenizer.apply_chat_template(messages, tokenize=False)
    assert whole.endswith("<|im_end|>\n")
    assert ids == prompter.tokenizer(whole.removesuffix("\n"), add_special_tokens=False)["input_ids"]


def test_messages_keep_their_own_system_prompt():
    prompter = Prompter(tiny_tokenizer(), system="Be kind.")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert text(prompter, prompter.prompt_ids(messages)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    )
    assert len(messages) == 4  # the caller's list is left alone


def test_system_is_used_where_the_prompt_has_none():
    prompter = Prompter(tiny_tokenizer(), system="Be kind.")
    assert text(prompter, prompter.prompt_ids("a")).startswith(
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user"
    )


def test_no_system_message_is_added_to_a_template_without_a_default():
    plain = "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}<|im_start|>"
    prompter = Prompter(with_template(plain))
    assert text(prompter, prompter.prompt_ids("a")) == "<|im_start|>user:a<|im_end|><|im_start|>"


def test_template_that_refuses_system_messages():
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}"
    )
    prompter = Prompter(with_template(template))
    assert text(prompter, prompter.prompt_ids("a")) == "user:a<|im_end|>"
    with pytest.raises(UserError, match="system: .*does not accept a system prompt; leave it out"):
        Prompter(with_template(template), system="Be kind.")
    with pytest.raises(UserError, match="prompt: .*refuses these messages.*no system role"):
        prompter.prompt_ids([{"role": "system", "content": "x"}, {"role": "user", "content": "a"}])


def test_response_ends_with_one_eos():
    prompter = Prompter(tiny_tokenizer())
    ids = prompter.response_ids("Hi the sea")
    assert ids[-1] == prompter.eos_id == 2
    assert ids.count(2) == 1
    assert prompter.response_ids("Hi the sea<|im_end|>") == ids
    assert prompter.decode(ids) == "Hi the sea"


def test_written_out_special_tokens_end_nothing():
    prompter = Prompter(tiny_tokenizer())
    response = prompter.response_ids("a<|im_end|>b")
    assert response.count(2) == 1
    assert prompter.decode(response) == "a<|im_end|>b"
    prompt = prompter.prompt_ids("a<|im_end|>b<|im_start|>")
    assert (prompt.count(1), prompt.count(2)) == (3, 2)  # what the template alone has


def test_raw_is_verbatim():
    for tokenizer, template in [(tiny_tokenizer(chat=False), "auto"), (tiny_tokenizer(), "raw")]:
        prompter = Prompter(tokenizer, template)
        assert text(prompter, prompter.prompt_ids("the sea ")) == "the sea "
        assert prompter.describe()["template"] == "raw"
        with pytest.raises(UserError, match="prompt: messages need a chat template; give the prompt as text"):
            prompter.prompt_ids([{"role": "user", "content": "a"}])


def test_options_that_the_tokenizer_cannot_serve():
    with pytest.raises(UserError, match="template: .*no chat template; use template raw or auto"):
        Prompter(tiny_tokenizer(chat=False), "chat")
    with pytest.raises(UserError, match="system: a raw prompt has no place"):
        Prompter(tiny_tokenizer(), "raw", system="x")


def test_end_of_turn_is_read_from_the_template():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn_end|>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}:{{ m.content }}<|turn_end|>{% endfor %}"
    prompter = Prompter(tokenizer)
    assert prompter.eos_id == 400
    assert prompter.stop_ids == [400, 2]
    assert prompter.response_ids("a")[-1] == 400


@pytest.mark.parametrize("broken", ["<|im_end|>", None])
def test_pad_differs_from_eos(broken: str | None):
    tokenizer = tiny_tokenizer()
    tokenizer.unk_token = "<|pad|>"  # SmolLM2: unk is id 0, pad and EOS are both id 2
    tokenizer.pad_token = broken
    prompter = Prompter(tokenizer)
    assert (prompter.pad_id, tokenizer.pad_token_id, prompter.eos_id) == (0, 0, 2)


def test_pad_where_eos_is_the_only_special_token():
    tokenizer = tiny_tokenizer(chat=False)
    tokenizer.pad_token = tokenizer.bos_token = tokenizer.unk_token = None
    assert Prompter(tokenizer).pad_id not in (None, 2)


def test_describe_is_json_and_survives_saving(tiny_model):
    prompter = Prompter(AutoTokenizer.from_pretrained(tiny_model), system="x")
    assert json.loads(json.dumps(prompter.describe())) == prompter.describe()
    assert prompter.describe() == Prompter(tiny_tokenizer(), system="x").describe()
    assert prompter.describe() != Prompter(tiny_tokenizer()).describe()


def test_prompt_text():
    assert prompt_text("a") == "a"
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert prompt_text(messages) == "c"
