"""Layouts of prompts without responses (step 3)."""

from __future__ import annotations

from data_modules.formats.layout import Fields, Layout, Record
from data_modules.formats.messages import as_messages, prompt_of, with_system
from lit_instruct.errors import DataError


def _prompt(record: Record) -> Fields:
    return [{"prompt": with_system(prompt_of(record["prompt"]), record.get("system"))}]


def _messages(record: Record) -> Fields:
    """All messages up to the last user turn; a response at the end is dropped."""
    messages = as_messages(record["messages"], "messages")
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise DataError('field "messages" has no turn of the user; remove the row')
    return [{"prompt": with_system(messages, record.get("system"))}]


def _conversation(field: str) -> Layout:
    """The first user turn of a conversation, with the system message before it."""

    def convert(record: Record) -> Fields:
        messages = as_messages(record[field], field)
        first = next((number for number, message in enumerate(messages) if message["role"] == "user"), None)
        if first is None:
            raise DataError(f'field "{field}" has no turn of the user; remove the row')
        prompt = [*(message for message in messages[:first] if message["role"] == "system"), messages[first]]
        # WildChat identifies users by a hash of their address.
        user = {"user": record["hashed_ip"]} if record.get("user") is None and record.get("hashed_ip") else {}
        return [{"prompt": prompt, **user}]

    return Layout(field, (field,), convert, takes=("hashed_ip",))


PROMPT_LAYOUTS = (
    Layout("prompt", ("prompt",), _prompt, takes=("system",)),
    Layout("messages", ("messages",), _messages, takes=("system",)),
    _conversation("conversation"),
    _conversation("conversations"),
)
"""Each before those it could be mistaken for."""
TEXT_FORMAT = "text"
"""--data.format=text reads one prompt per line; a .txt file needs no --data.format."""
