"""Chat templates that loop or fill the memory."""

from __future__ import annotations

import resource
import signal
import time

import pytest

from lit_instruct.errors import RunawayTemplateError
from lit_instruct.prompting import Prompter, chat_template, limits
from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
BOMBS = {
    "nested loops": LOOP,
    "loops that write": LOOP.replace("%}{% endfor", "%}word {% endfor", 1),
    "a large power": "{{ (7 ** (10 ** 8)) % 10 }}",
    "recursion by two": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "a long text": "{{ 'x' * 10 ** 10 }}",
    "a text as it is compiled": "{{ 'x' * 10000000000 }}",
    "doubled blocks": "{% set a = 'xxxxxxxx' %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 40 + "{{ a }}",
    "replacements": "{{ ('a' * 9999)" + " | replace('a', 'a' * 9999)" * 4 + " }}",
    "a wide text": "{{ 'x' | center(10 ** 11) }}",
    "a wide format": "{{ '%99999999999d' % 1 }}",
    "a long list": "{% set l = ([0] * 10 ** 10) %}",
}


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.3)
    monkeypatch.setattr(limits, "MEMORY", 2**26)


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=[*BOMBS])
def test_a_template_that_does_not_end(bomb: str) -> None:
    tokenizer, before, began = tiny_tokenizer(), resource.getrlimit(resource.RLIMIT_AS), time.process_time()
    tokenizer.chat_template = bomb + CHAT_TEMPLATE
    with pytest.raises(RunawayTemplateError, match=r"the chat template (takes|needs) more than .* to write a prompt"):
        Prompter(tokenizer)
    assert time.process_time() - began < 10
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_a_template_that_writes_a_book(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "CHARACTERS", 10_000)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ 'x' * 20000 }}" + CHAT_TEMPLATE
    with pytest.raises(RunawayTemplateError, match=r"the chat template writes 20,\d+ characters for a prompt"):
        Prompter(tokenizer)


def test_a_template_that_does_not_end_for_some_messages() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% if messages | length > 2 %}" + LOOP + "{% endif %}" + CHAT_TEMPLATE
    prompter = Prompter(tokenizer, system="Be brief.")
    turns = [{"role": role, "content": "Hello"} for role in ("user", "assistant", "user")]
    with pytest.raises(RunawayTemplateError, match="takes more than"):
        prompter.prompt_ids(turns)
    assert prompter.prompt_ids("Hello")


def test_a_long_conversation_is_no_bomb() -> None:
    prompter = Prompter(tiny_tokenizer())
    turns = [{"role": role, "content": "Hello " * 100} for role in ("user", "assistant")] * 1000
    assert len(prompter.prompt_ids([*turns, turns[0]])) > 100_000
