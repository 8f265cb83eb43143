"""The one place that turns a prompt (text or messages) into token ids.

Every stage, data module and evaluation goes through `Prompter`, so a response is trained, scored and sampled after
exactly the same ids, and ends at exactly one EOS.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from lit_instruct.errors import UserError
from lit_instruct.prompting.chat_template import (
    ASSISTANT_MARK,
    QUESTION,
    SYSTEM_MARK,
    ChatTemplate,
    Message,
)
from lit_instruct.prompting.special_tokens import (
    check_no_word_is_special,
    choose_padding,
    mark_as_special,
    special_tokens,
)

Prompt = str | list[Message]
Template = Literal["auto", "chat", "raw"]


class Prompter:
    """Renders prompts and responses to token ids, and remembers how.

    A prompt's ids end exactly where the response begins; a response's ids end with one EOS and nothing after it.
    Special tokens typed by a user, such as "<|im_end|>", are tokenised as ordinary text: they cannot end a turn. Only
    in a raw prompt, which is all the user's, they are what they are.

    Args:
        tokenizer: of the base model. It is corrected where that is needed: its pad token where it is missing or ends a
            response, tokens of the chat template that are not marked as special, and the template (`ChatTemplate`).
        template: "chat" renders with the tokenizer's chat template (plain text becomes one user message), "raw" takes
            the text verbatim, "auto" is "chat" where there is a chat template and "raw" elsewhere.
        system: system prompt for prompts that have none of their own. None turns off the template's default one.
        more_stop_ids: further ids that end a response, such as those of the model's generation config.

    Raises:
        UserError: "chat" without a chat template, one that cannot be used, a `system` that it cannot place, or an
            ordinary word among the special tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template = "auto",
        system: str | None = None,
        more_stop_ids: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.system = system
        self.more_stop_ids = [i for i in more_stop_ids if 0 <= i < len(tokenizer)]
        self.kind = _template_kind(tokenizer, template)
        self._chat = ChatTemplate(tokenizer) if self.kind == "chat" else None
        if system is not None:
            self._check_system()
        self._system_message = self._missing_system_message()
        if self._chat is not None:
            mark_as_special(tokenizer, self._chat.source, self._chat.written())
        self.special_tokens = special_tokens(tokenizer)
        """id -> text."""
        check_no_word_is_special(tokenizer, self.special_tokens)
        texts = sorted(self.special_tokens.values(), key=len, reverse=True)
        self._special_text = re.compile("|".join(map(re.escape, texts)))
        self.eos_id = self._find_eos_id()
        stop_ids = [self.eos_id, tokenizer.eos_token_id, *self.more_stop_ids]
        self.stop_ids: list[int] = list(dict.fromkeys(i for i in stop_ids if i is not None))
        self.pad_id = choose_padding(tokenizer, self.stop_ids, self.special_tokens)
        self._never_typed = self.special_tokens.keys() - {tokenizer.unk_token_id}
        self._lead = self._find_lead()

    @property
    def added_system(self) -> str | None:
        """The system prompt inserted before prompts that have none; None where nothing is inserted."""
        return self._system_message["content"] if self._system_message is not None else None

    def content(self, text: str) -> Any:
        """Returns the content of a message as the chat template wants it: the text, or a list with one part."""
        return text if self._chat is None else self._chat.content(text)

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
        if self._chat is not None:
            return self.texts_ids([self._chat.prompt(self._messages(prompt)) for prompt in prompts])
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
        texts = [self._lead + response.removesuffix(eos) for response in responses]
        return [[*ids, self.eos_id] for ids in self.texts_ids(texts, split_special_tokens=True)]

    def texts_ids(self, texts: Sequence[str], split_special_tokens: bool = False) -> list[list[int]]:
        """Returns the token ids of plain texts, without template, BOS and EOS.

        `split_special_tokens` tokenises written-out special tokens as ordinary text.
        """
        if not texts:
            return []
        # The template writes BOS itself, so the tokenizer must not add one.
        options = {"add_special_tokens": False, "split_special_tokens": split_special_tokens}
        encoded = self.tokenizer(list(texts), **options, return_attention_mask=False)["input_ids"]
        if split_special_tokens:
            # Some vocabularies hold special tokens as words too.
            typed = [n for n, ids in enumerate(encoded) if not self._never_typed.isdisjoint(ids)]
            for n in typed:
                encoded[n] = self.tokenizer(self._as_text(texts[n]), **options)["input_ids"]
        return [list(ids) for ids in encoded]

    def turn_ids(self, prompt: Prompt, response: str) -> list[tuple[list[int], bool]]:
        """Returns the token ids of a conversation in segments, each with True for an assistant turn, ended by one EOS.

        The other segments hold the template's text and user turns, up to where the next response begins.

        Raises:
            UserError: as `prompt_ids`; or the template renders an earlier turn differently once more turns follow.
        """
        earlier = not isinstance(prompt, str) and any(message["role"] == "assistant" for message in prompt)
        if self._chat is None or not earlier:
            return [(self.prompt_ids(prompt), False), (self.response_ids(response), True)]
        turns, rest = self._chat.turns(self._messages(prompt))
        pieces: list[tuple[list[int], bool]] = []
        for number, (before, said) in enumerate(turns):
            before = self._after_turn(before) if number else before
            pieces += [
                (self._encode(before.removesuffix(self._chat.gap)), False),
                ([*self._encode(self._lead + said, split_special_tokens=True), self.eos_id], True),
            ]
        return [*pieces, (self._encode(self._after_turn(rest)), False), (self.response_ids(response), True)]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of a response's ids, without special tokens and surrounding white space."""
        return self.decode_as_is(ids).strip()

    def decode_as_is(self, ids: Iterable[int]) -> str:
        """Returns the text of a response's ids without special tokens, white space kept."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

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

    def _as_text(self, content: str) -> str:
        """Splits special tokens written out in a message, so that they are tokenised as ordinary text."""
        while self._special_text.search(content):
            content = self._special_text.sub(_apart, content)
        return content

    def _after_turn(self, text: str) -> str:
        """Returns what follows a reply, without the end of turn and white space before it."""
        rest, end = text.lstrip(), self.tokenizer.convert_ids_to_tokens(self.eos_id)
        return rest.removeprefix(end) if rest.startswith(end) else text

    def _encode(self, text: str, split_special_tokens: bool = False) -> list[int]:
        return self.texts_ids([text], split_special_tokens)[0]

    def _without_end(self, ids: list[int]) -> list[int]:
        """Removes the EOS that some tokenizers append to every text."""
        ids = list(ids)
        while ids and ids[-1] in self.stop_ids:
            ids.pop()
        return ids

    def _check_system(self) -> None:
        if self._chat is None:
            raise UserError("system: a raw prompt cannot have a system prompt; leave it out or use template chat")
        if self._chat.with_system() is None:
            raise UserError("system: the model's chat template does not accept a system prompt; leave it out")

    def _missing_system_message(self) -> Message | None:
        """Returns the message for prompts without a system prompt: `system`, or "" to suppress the template's own."""
        if self.system is not None:
            return {"role": "system", "content": self.system}
        with_mark = self._chat.with_system() if self._chat is not None else None
        if self._chat is None or with_mark is None:
            return None
        before, after = with_mark.split(SYSTEM_MARK, 1)
        before, after = before.rstrip(), after.lstrip()  # a template may put spaces around what it is given
        plain = self._chat.prompt([QUESTION])
        inserted = plain.startswith(before) and plain.endswith(after)
        inserted = inserted and bool(plain[len(before) : len(plain) - len(after)].strip())
        return {"role": "system", "content": ""} if inserted else None

    def _find_eos_id(self) -> int:
        """Returns the id that ends an assistant turn in the template, else the tokenizer's EOS."""
        tail = self._encode(self._chat.end_of_turn()) if self._chat is not None else []
        eos_id = next((i for i in tail if i in self.special_tokens), self.tokenizer.eos_token_id)
        if eos_id is None:
            raise UserError(f"{self.tokenizer.name_or_path}: the tokenizer has no EOS token; set its eos_token")
        return int(eos_id)

    def _find_lead(self) -> str:
        """Returns the spaces with which a response begins: those of the template, unless the tokenizer adds them."""
        if self._chat is None or not self._chat.gap:
            return ""
        prompt = self._chat.prompt([QUESTION])
        apart = self._encode(prompt) + self._encode(ASSISTANT_MARK)
        return "" if apart == self._encode(prompt + self._chat.gap + ASSISTANT_MARK) else self._chat.gap


def prompt_text(prompt: Prompt) -> str:
    """Returns a prompt's plain text for people and labelers: the last user message, or the text itself."""
    if isinstance(prompt, str):
        return prompt
    return next((m["content"] for m in reversed(prompt) if m["role"] == "user"), prompt[-1]["content"])


def _apart(found: re.Match[str]) -> str:
    """A special token with a space after its first character; one of a single character becomes a space."""
    return f"{found[0][0]} {found[0][1:]}" if len(found[0]) > 1 else " "


def _template_kind(tokenizer: PreTrainedTokenizerBase, template: Template) -> Literal["chat", "raw"]:
    has_template = bool(tokenizer.chat_template)
    if template == "chat" and not has_template:
        raise UserError(
            f"template: the tokenizer of {tokenizer.name_or_path} has no chat template; use template raw or auto"
        )
    return "raw" if template == "raw" or not has_template else "chat"
