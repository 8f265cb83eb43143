"""Prompts and responses as ids: where they end, what the template may add, what text may not do."""

from __future__ import annotations

import json
from typing import Any

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


def test_the_default_system_prompt_is_off_where_a_template_adds_spaces():
    spaced = tiny_tokenizer().chat_template.replace("message['content'] +", "' ' + message['content'] + ' ' +")
    prompter = Prompter(with_template(spaced))
    rendered = text(prompter, prompter.prompt_ids("the sea"))
    assert rendered.split() == (EMPTY_SYSTEM + "<|im_start|>user\n the sea <|im_end|>\n<|im_start|>assistant").split()


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
    assert text(prompter, prompter.prompt_ids("a")) == "<|im_start|>user:a<|im_end|><|im_start|>assistant:"


def test_template_that_refuses_system_messages():
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}"
    )
    prompter = Prompter(with_template(template))
    assert text(prompter, prompter.prompt_ids("a")) == "user:a<|im_end|>assistant:"
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
    with pytest.raises(UserError, match="system: a raw prompt cannot have a system prompt"):
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


CONVERSATION = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]


def test_turns_are_the_conversation_in_pieces_and_each_trained_one_ends_in_eos():
    prompter = Prompter(tiny_tokenizer())
    pieces = prompter.turn_ids(CONVERSATION, "d")
    assert [(text(prompter, ids), trained) for ids, trained in pieces] == [
        (EMPTY_SYSTEM + "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n", False),
        ("b<|im_end|>", True),
        ("\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n", False),
        ("d<|im_end|>", True),
    ]
    whole = prompter.prompt_ids(CONVERSATION) + prompter.response_ids("d")
    assert [i for ids, _ in pieces for i in ids] == whole
    assert prompter.turn_ids("a", "d") == [(prompter.prompt_ids("a"), False), (prompter.response_ids("d"), True)]


def test_turns_of_a_template_that_strips_and_one_without_end_of_turn():
    stripping = with_template(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + ' <|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    spaced = [CONVERSATION[0], {"role": "assistant", "content": " b \n"}, CONVERSATION[2]]
    prompter = Prompter(stripping)
    assert [text(prompter, ids) for ids, trained in prompter.turn_ids(spaced, "d") if trained] == [
        "b<|im_end|>",
        "d<|im_end|>",
    ]
    bare = with_template("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}assistant: ")
    prompter = Prompter(bare)
    assert [text(prompter, ids) for ids, _ in prompter.turn_ids(CONVERSATION, "d")] == [
        "user: a\nassistant: ",
        "b<|im_end|>",
        "\nuser: c\nassistant: ",
        "d<|im_end|>",
    ]


def test_a_template_that_drops_earlier_turns_is_refused():
    forgetful = with_template("{{ messages[-1]['content'] }}{% if add_generation_prompt %}<|im_start|>{% endif %}")
    with pytest.raises(UserError, match="only the last one can be trained on; use --data.loss_on=last_response"):
        Prompter(forgetful).turn_ids(CONVERSATION, "d")


@pytest.mark.parametrize("template", ["chat", "raw"])
def test_prompts_together_are_prompts_one_by_one(template: Any):
    prompter = Prompter(tiny_tokenizer(), template)
    prompts: list[Any] = ["the sea ", "a", "the cat<|im_end|> sat\n\non 7 mats", ""]
    if template == "chat":
        prompts.append([{"role": "system", "content": ""}, {"role": "user", "content": "c"}])
    assert prompter.prompts_ids(prompts) == [prompter.prompt_ids(prompt) for prompt in prompts]
    assert prompter.prompts_ids([]) == []


def test_responses_together_are_responses_one_by_one():
    prompter = Prompter(tiny_tokenizer())
    responses = ["Hi the sea", "a<|im_end|>b", "", "x<|im_end|>"]
    assert prompter.responses_ids(responses) == [prompter.response_ids(response) for response in responses]
    assert prompter.responses_ids([]) == []


def test_fingerprint_says_which_ids_a_text_becomes(tiny_model):
    one = Prompter(tiny_tokenizer()).fingerprint()
    assert one == Prompter(AutoTokenizer.from_pretrained(tiny_model)).fingerprint()
    longer = tiny_tokenizer()
    longer.add_tokens(["the cat"])
    others = [Prompter(tiny_tokenizer(), "raw"), Prompter(tiny_tokenizer(), system="x"), Prompter(longer)]
    others.append(Prompter(with_template("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")))
    others.append(type("Another", (Prompter,), {})(tiny_tokenizer()))
    assert len({one, *(prompter.fingerprint() for prompter in others)}) == 6
