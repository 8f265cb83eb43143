"""Chat templates of other kinds: what a prompt must hold, and what is served, corrected or refused."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import transformers.utils.chat_template_utils
from transformers import AutoTokenizer

from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter
from tests.lit_instruct.prompting.tokenizers import CHATML, with_tokens

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
MESSAGE = "<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n"
PLAIN = f"{{% for m in messages %}}{{{{ '{MESSAGE}' }}}}{{% endfor %}}"
OPENS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
IN_PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}" + OPENS
)
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|im_start|>[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' <|im_end|>' }}{% endif %}{% endfor %}"
)
THINKS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' and loop.last %}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + m['content'] + '<|im_end|>\n' }}"
    "{% else %}" + f"{{{{ '{MESSAGE}' }}}}" + "{% endif %}{% endfor %}" + OPENS
)
CHANNELS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] }}{% if m['role'] == 'assistant' %}{{ '<|channel|>final' }}"
    "{% endif %}{{ '<|message|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}\n"
)
REASONS = PLAIN + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
SLOT = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant"


def prompter_for(template: Any) -> Prompter:
    return Prompter(with_tokens(template, eos_token="<|im_end|>", pad_token="<|pad|>"))


def prompt(prompter: Prompter, text: Any) -> str:
    return str(prompter.tokenizer.decode(prompter.prompt_ids(text)))


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (CHATML, f"{SLOT}\n"),
        (PLAIN, f"{SLOT}\n"),
        (PLAIN + "\n", f"{SLOT}\n"),
        (REASONS, f"{SLOT}\n"),
        (THINKS, f"{SLOT}\n<think>\n\n</think>\n\n"),
        (CHANNELS, "<|im_start|>user<|message|>a<|im_end|><|im_start|>assistant<|channel|>final<|message|>"),
        (INST, "<|im_start|>[INST] a [/INST]"),
    ],
    ids=["sound", "opens-nothing", "ends-in-a-line", "opens-more", "thinks", "channels", "adds-spaces"],
)
def test_prompt_and_reply_are_the_beginning_of_the_conversation(template: str, wanted: str, tmp_path: Path):
    prompter = prompter_for(template)
    assert prompt(prompter, "a") == wanted
    ids = prompter.prompt_ids("a") + prompter.response_ids("ASSISTANTMARK b")
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "ASSISTANTMARK b"}]
    whole = prompter.tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template)
    said = prompter.tokenizer.decode(ids[:-1])
    assert whole.startswith(said)
    assert whole.removeprefix(said).strip().startswith("<|im_end|>")
    assert ids[:-1] == prompter.tokenizer(said, add_special_tokens=False)["input_ids"]
    prompter.tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    other = saved.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    assert other == prompter.prompt_ids("a")
    assert saved.apply_chat_template(messages, tokenize=False) == whole
    assert (Prompter(saved).describe(), Prompter(saved).prompt_ids("a")) == (prompter.describe(), other)


@pytest.mark.parametrize("template", [CHATML, PLAIN, THINKS, CHANNELS, INST])
def test_conversations_of_these_templates_are_trained_on_turn_by_turn(template: str):
    prompter = prompter_for(template)
    pieces = prompter.turn_ids(TURNS, "d")
    trained = [prompter.tokenizer.decode(ids).strip() for ids, trained in pieces if trained]
    assert trained == ["b<|im_end|>", "d<|im_end|>"]
    assert pieces[0] == (prompter.prompt_ids("a"), False) or template == THINKS
    assert [i for ids, _ in pieces[2:] for i in ids][-len(prompter.response_ids("d")) :] == prompter.response_ids("d")


def test_spaces_that_the_tokenizer_adds_are_not_added_twice():
    spaced = prompter_for(INST)
    assert spaced.tokenizer.decode(spaced.response_ids("b")) == " b<|im_end|>"
    assert spaced.decode(spaced.response_ids("b")) == "b"
    tokenizer = with_tokens(INST, eos_token="<|im_end|>", pad_token="<|pad|>")
    tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    prompter = Prompter(tokenizer)
    ids = prompter.prompt_ids("a") + prompter.response_ids("b")
    assert ids == prompter.tokenizer("<|im_start|>[INST] a [/INST] b<|im_end|>", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("system", [None, "Be kind."])
def test_content_in_parts(system: str | None):
    prompter = Prompter(with_tokens(IN_PARTS, eos_token="<|im_end|>"), system=system)
    first = "" if system is None else "<|im_start|>system\nBe kind.<|im_end|>\n"
    assert (
        prompt(prompter, "What is 2+2?") == first + "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [prompter.tokenizer.decode(ids) for ids, trained in prompter.turn_ids(TURNS, "d") if trained] == [
        "b<|im_end|>",
        "d<|im_end|>",
    ]
    opened = prompter_for(IN_PARTS.removesuffix(OPENS))
    assert prompt(opened, "a") == f"{SLOT}\n"


@pytest.mark.parametrize(
    ("date", "wanted"),
    [
        ("strftime_now('%d %b %Y')", "26 Jul 2024"),
        ("strftime_now('%Y-%m-%d')", "2024-07-26"),
        ("strftime_now('%A, %B %-d, %Y')", "Friday, July 26, 2024"),
        ("date_string if date_string is defined else strftime_now('%d %B %Y')", "26 July 2024"),
        ("strftime_now('%d %b %Y') if strftime_now is defined else 'none'", "26 Jul 2024"),
    ],
)
@pytest.mark.parametrize("rest", [CHATML, PLAIN])
def test_a_prompt_is_the_same_on_every_day(date: str, wanted: str, rest: str, monkeypatch: pytest.MonkeyPatch):
    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime(2031, 12, 5)

    template = f"{{{{ 'Today: ' + ({date}) + '\n' }}}}{rest}"
    today = prompter_for(template)
    assert prompt(today, "a") == f"Today: {wanted}\n{SLOT}\n"
    assert Prompter(today.tokenizer).describe() == today.describe()
    monkeypatch.setattr(transformers.utils.chat_template_utils, "datetime", Tomorrow)
    tomorrow = prompter_for(template)
    assert tomorrow.prompt_ids("a") == today.prompt_ids("a")
    assert tomorrow.fingerprint() == today.fingerprint()
    other = today.tokenizer.apply_chat_template(TURNS[:1], add_generation_prompt=True, return_dict=False)
    assert other == today.prompt_ids("a")


def test_named_templates():
    named = {"default": PLAIN, "rag": "x"}
    prompter = prompter_for(named)
    assert prompt(prompter, "a") == f"{SLOT}\n"
    assert isinstance(prompter.tokenizer.chat_template, str)
    with pytest.raises(UserError, match=r"chat templates \(rag, tool_use\) have no default; name one of them default"):
        prompter_for({"tool_use": PLAIN, "rag": PLAIN})
    raw = Prompter(with_tokens({"rag": PLAIN}, eos_token="<|im_end|>"), "raw")
    assert prompt(raw, "a") == "a"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for tool in tools %}{{ tool }}{% endfor %}" + CHATML, "it needs tools, which prompts do not have here"),
        ("{% if not tools %}{{ raise_exception('no tools') }}{% endif %}" + CHATML, "it needs tools"),
        ("{{ tools[0]['function']['name'] }}" + CHATML, "it needs tools"),
        ("{{ raise_exception('closed for today') }}", "it cannot render a question: closed for today"),
        ("{% for m in messages %}", "it cannot render a question: Unexpected end of template"),
        ("{{ messages[0]['content'] + 1 }}", "it cannot render a question: can only concatenate str"),
        ("<|im_start|>user\n{{ question }}<|im_end|>", "it leaves out the user's text and gives '<|im_start|>user"),
        ("{{ messages[-1]['content'] | upper }}", "it leaves out the user's text and gives 'USERMARK'"),
        ("{{ messages[-1]['content'] }}", "it does not open the assistant's turn"),
    ],
)
def test_templates_that_cannot_be_used_are_refused_with_their_reason(template: str, reason: str):
    with pytest.raises(UserError) as refusal:
        prompter_for(template)
    assert f"the chat template cannot be used ({reason}" in str(refusal.value)
    assert str(refusal.value).endswith("or leave it out with template raw (--model.prompt.template=raw)")
    assert "\n" not in str(refusal.value)
