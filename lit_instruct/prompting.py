"""The one place that turns a prompt (text or messages) into token ids.

Every stage, data module and evaluation goes through `Prompter`, so a response is trained, scored and sampled after
exactly the same ids, and ends at exactly one EOS.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypedDict

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from lit_instruct.errors import UserError


class Message(TypedDict):
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


Prompt = str | list[Message]
Template = Literal["auto", "chat", "raw"]

# Texts that no template contains, to find what a template puts around a message.
_SYSTEM_MARK, _USER_MARK, _ASSISTANT_MARK = "SYSTEMMARK", "USERMARK", "ASSISTANTMARK"


class Prompter:
    """Renders prompts and responses to token ids, and remembers how.

    A prompt's ids end exactly where the response begins; a response's ids end with one EOS and nothing after it.
    Special tokens typed by a user, such as "<|im_end|>", are tokenised as ordinary text: they cannot end a turn.

    Args:
        tokenizer: of the base model; its pad token is changed where it is missing or equals EOS.
        template: "chat" renders with the tokenizer's chat template (plain text becomes one user message), "raw" takes
            the text verbatim, "auto" is "chat" where there is a chat template and "raw" elsewhere.
        system: system prompt for prompts that have none of their own. None turns off the template's default one.

    Raises:
        UserError: "chat" without a chat template, or a `system` that the template cannot place.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: Template = "auto", system: str | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.system = system
        self.kind = _template_kind(tokenizer, template)
        if system is not None:
            self._check_system()
        self._system_message = self._missing_system_message()
        self.eos_id = self._find_eos_id()
        self.stop_ids = list(dict.fromkeys(i for i in (self.eos_id, tokenizer.eos_token_id) if i is not None))
        self.pad_id = _pad_id(tokenizer, self.stop_ids)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self.pad_id)
        self._special_tokens = list(tokenizer.all_special_tokens)
        self._special_token = re.compile("|".join(map(re.escape, self._special_tokens)))

    @property
    def added_system(self) -> str | None:
        """The system prompt inserted before prompts that have none; None where nothing is inserted."""
        return self._system_message["content"] if self._system_message is not None else None

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Returns the token ids of a prompt, up to where the response begins (generation prompt included).

        Raises:
            UserError: messages without a chat template, or messages that the template refuses.
        """
        return self.prompts_ids([prompt])[0]

    def prompts_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Returns the same ids as `prompt_ids` one by one, but faster: the prompts are tokenised together.

        Raises:
            UserError: one of them cannot be rendered, as in `prompt_ids`.
        """
        if self.kind == "chat":
            return self.texts_ids([self._render(self._messages(p), add_generation_prompt=True) for p in prompts])
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        if len(texts) < len(prompts):
            raise UserError("prompt: messages need a chat template; give the prompt as text, or use a chat model")
        encoded = self.tokenizer(texts, return_attention_mask=False)["input_ids"] if texts else []
        return [self._without_end(ids) for ids in encoded]

    def response_ids(self, response: str) -> list[int]:
        """Returns the token ids of a response; the last one, and only that one, is `eos_id`."""
        return self.responses_ids([response])[0]

    def responses_ids(self, responses: Sequence[str]) -> list[list[int]]:
        """Returns the same ids as `response_ids` one by one, but faster: the responses are tokenised together."""
        eos = self.tokenizer.convert_ids_to_tokens(self.eos_id)
        texts = [response.removesuffix(eos) for response in responses]
        return [[*ids, self.eos_id] for ids in self.texts_ids(texts, split_special_tokens=True)]

    def texts_ids(self, texts: Sequence[str], split_special_tokens: bool = False) -> list[list[int]]:
        """Returns the token ids of plain texts, without template, BOS and EOS.

        `split_special_tokens` tokenises written-out special tokens as ordinary text.
        """
        if not texts:
            return []
        # The template writes BOS itself, so the tokenizer must not add one.
        options = {"add_special_tokens": False, "split_special_tokens": split_special_tokens}
        encoded = self.tokenizer(list(texts), **options, return_attention_mask=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def turn_ids(self, prompt: Prompt, response: str) -> list[tuple[list[int], bool]]:
        """Returns the token ids of a conversation in segments, each with True for an assistant turn, ended by one EOS.

        The other segments hold the template's text and user turns, up to where the next response begins.

        Raises:
            UserError: as `prompt_ids`; or the template renders an earlier turn differently once more turns follow.
        """
        earlier = not isinstance(prompt, str) and any(message["role"] == "assistant" for message in prompt)
        if self.kind == "raw" or not earlier:
            return [(self.prompt_ids(prompt), False), (self.response_ids(response), True)]
        messages = self._messages(prompt)
        text = self._render(messages, add_generation_prompt=True)
        end_of_turn = self.tokenizer.convert_ids_to_tokens(self.eos_id)
        pieces: list[tuple[list[int], bool]] = []
        done = 0
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:number], add_generation_prompt=True)
            said = self._said(text, before, message["content"])
            pieces += [
                (self._encode(text[done : len(before)]), False),
                ([*self._encode(said, split_special_tokens=True), self.eos_id], True),
            ]
            done = len(before) + len(said)
            rest = text[done:].lstrip()
            if rest.startswith(end_of_turn):
                done = len(text) - len(rest) + len(end_of_turn)
        return [*pieces, (self._encode(text[done:]), False), (self.response_ids(response), True)]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of a response's ids, without special tokens and surrounding white space."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def describe(self) -> dict[str, Any]:
        """Returns a record of the prompt format for JSON; two stages fit together when theirs are equal."""
        template = self.tokenizer.get_chat_template() if self.kind == "chat" else None
        return {
            "template": self.kind,
            "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if template else None,
            "system": self.system,
            "eos_id": self.eos_id,
            "pad_id": self.pad_id,
        }

    def fingerprint(self) -> str:
        """Returns a hash of everything that determines tokenisation: prompters of the same hash give the same ids."""
        tokenizer = self.tokenizer
        if tokenizer.is_fast:
            encoder = json.loads(tokenizer.backend_tokenizer.to_str())
            encoder["truncation"] = encoder["padding"] = None  # left over from the last call
        else:
            encoder = {"vocabulary": tokenizer.get_vocab(), "options": tokenizer.init_kwargs}
        parts = [type(self).__qualname__, type(tokenizer).__qualname__, self.describe(), self.stop_ids, encoder]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def _messages(self, prompt: Prompt) -> list[Message]:
        messages: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        messages = [{**message, "content": self._as_text(message["content"])} for message in messages]
        if self._system_message is not None and all(message["role"] != "system" for message in messages):
            messages.insert(0, self._system_message)
        return messages

    @staticmethod
    def _said(text: str, before: str, content: str) -> str:
        """Returns the text of an assistant turn as rendered: templates may strip it."""
        for said in (content, content.strip()):
            if text.startswith(before + said):
                return said
        raise UserError(
            "the model's chat template renders earlier turns differently once more follow, so only the last one "
            "can be trained on; use --data.loss_on=last_response"
        )

    def _as_text(self, content: str) -> str:
        """Splits special tokens written out in a message, so that they are tokenised as ordinary text."""
        if self._special_token.search(content):  # rare, and there may be hundreds of special tokens
            for token in self._special_tokens:
                content = content.replace(token, f"{token[0]} {token[1:]}")
        return content

    def _render(self, messages: list[Message], add_generation_prompt: bool) -> str:
        try:
            options = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
            return str(self.tokenizer.apply_chat_template(messages, **options))
        except TemplateError as error:
            message = f"prompt: the model's chat template refuses these messages ({error}); change them"
            raise UserError(message) from error

    def _encode(self, text: str, split_special_tokens: bool = False) -> list[int]:
        return self.texts_ids([text], split_special_tokens)[0]

    def _without_end(self, ids: list[int]) -> list[int]:
        """Removes the EOS that some tokenizers append to every text."""
        ids = list(ids)
        while ids and ids[-1] in self.stop_ids:
            ids.pop()
        return ids

    def _check_system(self) -> None:
        if self.kind == "raw":
            raise UserError("system: a raw prompt cannot have a system prompt; leave it out or use template chat")
        if self._render_with_system() is None:
            raise UserError("system: the model's chat template does not accept a system prompt; leave it out")

    def _render_with_system(self) -> str | None:
        messages: list[Message] = [{"role": "system", "content": _SYSTEM_MARK}, {"role": "user", "content": _USER_MARK}]
        try:
            text = self._render(messages, add_generation_prompt=True)
        except UserError:
            return None
        return text if _SYSTEM_MARK in text else None

    def _missing_system_message(self) -> Message | None:
        """Returns the message for prompts without a system prompt: `system`, or "" to suppress the template's own."""
        if self.system is not None:
            return {"role": "system", "content": self.system}
        if self.kind == "raw":
            return None
        with_mark = self._render_with_system()
        if with_mark is None:
            return None
        before, after = with_mark.split(_SYSTEM_MARK, 1)
        plain = self._render([{"role": "user", "content": _USER_MARK}], add_generation_prompt=True)
        inserted = plain.startswith(before) and plain.endswith(after) and len(plain) > len(before) + len(after)
        return {"role": "system", "content": ""} if inserted else None

    def _find_eos_id(self) -> int:
        """Returns the id that ends an assistant turn in the template, else the tokenizer's EOS."""
        eos_id = self._end_of_turn_id() if self.kind == "chat" else None
        eos_id = self.tokenizer.eos_token_id if eos_id is None else eos_id
        if eos_id is None:
            raise UserError(f"{self.tokenizer.name_or_path}: the tokenizer has no EOS token; set its eos_token")
        return int(eos_id)

    def _end_of_turn_id(self) -> int | None:
        messages: list[Message] = [
            {"role": "user", "content": _USER_MARK},
            {"role": "assistant", "content": _ASSISTANT_MARK},
        ]
        _, mark, tail = self._render(messages, add_generation_prompt=False).rpartition(_ASSISTANT_MARK)
        special = set(self.tokenizer.all_special_ids) if mark else set()
        return next((i for i in self._encode(tail) if i in special), None)


def prompt_text(prompt: Prompt) -> str:
    """Returns a prompt's plain text for people and labelers: the last user message, or the text itself."""
    if isinstance(prompt, str):
        return prompt
    return next((m["content"] for m in reversed(prompt) if m["role"] == "user"), prompt[-1]["content"])


def _template_kind(tokenizer: PreTrainedTokenizerBase, template: Template) -> Literal["chat", "raw"]:
    has_template = bool(tokenizer.chat_template)
    if template == "chat" and not has_template:
        raise UserError(
            f"template: the tokenizer of {tokenizer.name_or_path} has no chat template; use template raw or auto"
        )
    return "raw" if template == "raw" or not has_template else "chat"


def _pad_id(tokenizer: PreTrainedTokenizerBase, stop_ids: list[int]) -> int:
    """Returns a pad id other than EOS, so that padding is never mistaken for the end of a response.

    All code masks padding, so any other id will do where the tokenizer has no spare special token.
    """
    special = sorted(tokenizer.all_special_ids, key=lambda i: "pad" not in tokenizer.convert_ids_to_tokens(i))
    wanted = [tokenizer.pad_token_id, tokenizer.unk_token_id, *special, *range(len(stop_ids) + 1)]
    return next(int(i) for i in wanted if i is not None and i not in stop_ids)
