"""The chat template of a tokenizer, checked when it is opened with marks in place of texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from lit_instruct.errors import RunawayTemplateError, UserError
from lit_instruct.prompting.limits import CHARACTERS, limited, runaway


class Message(TypedDict):
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


# Texts that no template contains, to find what a template puts around a message.
SYSTEM_MARK, USER_MARK, ASSISTANT_MARK = "SYSTEMMARK", "UserMark", "ASSISTANTMARK"
QUESTION: Message = {"role": "user", "content": USER_MARK}
ANSWER: Message = {"role": "assistant", "content": ASSISTANT_MARK}

FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format"
    " | replace('%d', '26') | replace('%-d', '26') | replace('%e', '26') | replace('%j', '208')"
    " | replace('%b', 'Jul') | replace('%B', 'July') | replace('%m', '07') | replace('%-m', '7')"
    " | replace('%Y', '2024') | replace('%y', '24') | replace('%A', 'Friday') | replace('%a', 'Fri')"
    " | replace('%H', '00') | replace('%I', '12') | replace('%M', '00') | replace('%S', '00') | replace('%p', 'AM')"
    " | replace('%F', '2024-07-26') | replace('%D', '07/26/24') | replace('%x', '07/26/24')"
    " | replace('%T', '00:00:00') | replace('%R', '00:00') | replace('%X', '00:00:00') }}{% endmacro +%}"
)
"""Prepended to a template that writes today's date: prompts must not change from one day to the next. The date is the
one to which the templates of Llama 3 fall back."""

OPENED = (
    "{{% set opens_turn = add_generation_prompt %}}"
    "{{% if opens_turn %}}"
    "{{% set messages = messages + [{{'role': 'assistant', 'content': {content}}}] %}}"
    "{{% set add_generation_prompt = false %}}"
    "{{% endif %}}"
    "{{% set whole +%}}{template}{{%+ endset %}}"
    "{{{{ whole.rsplit({mark}, 1)[0] if opens_turn else whole }}}}"
)
"""A template whose prompts do not open the assistant's turn: they become the conversation, cut where a reply begins."""

RENDERING_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}


class ChatTemplate:
    """Renders messages with the tokenizer's (default) template, after making sure of what other code relies on.

    The user's text appears; a prompt followed by a reply is the beginning of the whole conversation, white space aside;
    and a prompt does not depend on the day. Where a template does not open the assistant's turn, or writes today's
    date, a corrected one takes its place in the tokenizer and is saved with it. Content is given as a list of parts to
    a template that wants it so.

    Args:
        tokenizer: with a chat template.

    Raises:
        UserError: the template has names but no default, needs tools, leaves out the user's text, or opens no turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.source = _with_fixed_date(_default_template(tokenizer))
        self.in_parts = self._wants_parts()
        self.gap = ""
        """Spaces that the template writes between a prompt and the reply."""
        self._open_turn()
        tokenizer.chat_template = self.source

    def prompt(self, messages: Sequence[Message]) -> str:
        """Returns the text of a prompt, up to where the reply begins.

        Raises:
            UserError: the template refuses the messages.
        """
        return self._render(messages, add_generation_prompt=True)

    def conversation(self, messages: Sequence[Message]) -> str:
        """Returns the text of a whole conversation.

        Raises:
            UserError: the template refuses the messages.
        """
        return self._render(messages, add_generation_prompt=False)

    def with_system(self) -> str | None:
        """Returns a prompt with SYSTEM_MARK as its system prompt, or None if the template cannot place one."""
        text = _unless_refused(lambda: self.prompt([{"role": "system", "content": SYSTEM_MARK}, QUESTION]))
        return text if SYSTEM_MARK in text else None

    def written(self) -> str:
        """Returns what the template writes around messages, with marks in their place."""
        return self.prompt([QUESTION]) + (self.with_system() or "") + self.end_of_turn()

    def end_of_turn(self) -> str:
        """Returns what the template writes after the last reply; nothing if it does not render replies."""
        _, mark, tail = _unless_refused(lambda: self.conversation([QUESTION, ANSWER])).rpartition(ASSISTANT_MARK)
        return tail if mark else ""

    def turns(self, messages: Sequence[Message]) -> tuple[list[tuple[str, str]], str]:
        """Returns, for each assistant turn, the text before it and its own; then the text up to where the reply begins.

        Raises:
            UserError: the template refuses the messages, or changes earlier replies.
        """
        marks = {n: f"{ASSISTANT_MARK}{n}END" for n, message in enumerate(messages) if message["role"] == "assistant"}
        marked: list[Message] = [
            {"role": message["role"], "content": marks.get(n, message["content"])} for n, message in enumerate(messages)
        ]
        before, rest = [], self.prompt(marked)
        for mark in marks.values():
            text, _, rest = rest.partition(mark)
            before.append(text)
        whole = self.prompt(messages)
        for clean in (str, str.strip, str.rstrip, str.lstrip):  # templates may strip replies
            turns = [(text, clean(messages[n]["content"])) for text, n in zip(before, marks, strict=True)]
            if "".join(text + said for text, said in turns) + rest == whole:
                return turns, rest
        raise UserError(
            "the model's chat template renders earlier turns differently once more follow, so only the last one "
            "can be trained on; use --data.loss_on=last_response"
        )

    def content(self, text: str) -> Any:
        """Returns a message's content as the template wants it: the text, or a list with one part."""
        return [{"type": "text", "text": text}] if self.in_parts else text

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool, **options: Any) -> str:
        given = [{**message, "content": self.content(message["content"])} for message in messages]
        options |= {"tokenize": False, "add_generation_prompt": add_generation_prompt, "chat_template": self.source}
        try:
            with limited(self.tokenizer.name_or_path):
                text = str(self.tokenizer.apply_chat_template(given, **options))
        except RunawayTemplateError:
            raise
        except RENDERING_ERRORS as error:
            message = f"prompt: the model's chat template refuses these messages ({error}); change them"
            raise UserError(message) from error
        if len(text) > CHARACTERS:
            raise runaway(self.tokenizer.name_or_path, f"writes {len(text):,} characters for a prompt")
        return text

    def _wants_parts(self) -> bool:
        """Tells whether the user's text appears only if it is given as a list of parts."""
        for self.in_parts in (False, True):
            if self._shows_user():
                return self.in_parts
        for self.in_parts in (False, True):
            if self._shows_user(tools=[]) or self._shows_user(tools=[TOOL]):
                raise self._refusal("it needs tools, which prompts do not have here")
        self.in_parts = False
        try:
            text = self.prompt([QUESTION])
        except UserError as error:
            raise self._refusal(f"it cannot render a question: {error.__cause__}") from error
        raise self._refusal(f"it leaves out the user's text and gives {text!r:.80}")

    def _shows_user(self, **options: Any) -> bool:
        return USER_MARK in _unless_refused(lambda: self._render([QUESTION], add_generation_prompt=True, **options))

    def _open_turn(self) -> None:
        """Corrects the template if a prompt followed by a reply is not the beginning of the conversation."""
        prompt, before = self.prompt([QUESTION]), self._before_reply()
        if before is None:  # nothing to compare with
            if prompt == _unless_refused(lambda: self.conversation([QUESTION])):
                raise self._refusal("it does not open the assistant's turn, and renders no conversation that shows how")
        elif before.startswith(prompt) and not before.removeprefix(prompt).strip(" "):
            self.gap = before.removeprefix(prompt)
        else:
            content = json.dumps(self.content(ASSISTANT_MARK))
            template = self.source.removesuffix("\n")  # as jinja does
            self.source = OPENED.format(content=content, template=template, mark=json.dumps(ASSISTANT_MARK))

    def _refusal(self, why: str) -> UserError:
        return UserError(
            f"{self.tokenizer.name_or_path}: the chat template cannot be used ({why}); edit it, or leave it out with "
            "template raw (--model.prompt.template=raw)"
        )

    def _before_reply(self) -> str | None:
        """Returns what the template writes before a reply, or None if it does not render the question and the reply."""
        before, mark, _ = _unless_refused(lambda: self.conversation([QUESTION, ANSWER])).rpartition(ASSISTANT_MARK)
        return before if mark and USER_MARK in before else None


def _unless_refused(render: Callable[[], str]) -> str:
    """Returns a text, "" if the template refuses the messages."""
    try:
        return render()
    except RunawayTemplateError:
        raise
    except UserError:
        return ""


def _default_template(tokenizer: PreTrainedTokenizerBase) -> str:
    named = tokenizer.chat_template
    if isinstance(named, dict) and "default" not in named:
        raise UserError(
            f"{tokenizer.name_or_path}: its chat templates ({', '.join(sorted(named))}) have no default; name one of "
            "them default in tokenizer_config.json, or leave them out with template raw (--model.prompt.template=raw)"
        )
    return str(tokenizer.get_chat_template())


def _with_fixed_date(template: str) -> str:
    writes_date = "strftime_now" in template and FIXED_DATE not in template
    return FIXED_DATE + template if writes_date else template
