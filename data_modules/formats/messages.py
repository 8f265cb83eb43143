"""Conversations in all public notations -> messages {role, content}."""

from __future__ import annotations

import json
import re
from typing import Any

from lit_instruct.errors import DataError

Messages = list[dict[str, str]]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
"""How chat datasets name the three roles; ShareGPT writes human and gpt, OpenAssistant prompter."""
SPEAKER = re.compile(r"\n\n(Human|Assistant):[ \n]?")
HH_START = "\n\nHuman:"


def as_messages(value: Any, field: str) -> Messages:
    """Returns messages that have only role and content.

    Args:
        value: a list of {role, content}, or of {from, value} as in ShareGPT.
        field: its name, for the message.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(value, list) or not value:
        raise DataError(f'field "{field}" must be a list of messages, not {kind(value)}; correct the row')
    return [_as_message(message, f'message {number} of field "{field}"') for number, message in enumerate(value, 1)]


def split_last_turn(value: Any, field: str) -> tuple[Messages, str]:
    """Splits a conversation into the messages before its last assistant turn and the text of that turn.

    Raises:
        DataError: it does not end with the assistant's turn.
    """
    messages = as_messages(value, field) if isinstance(value, list) and value else []
    if not messages or messages[-1]["role"] != "assistant":
        raise DataError(f'field "{field}" must be a list of messages that ends with an assistant turn; correct the row')
    return messages[:-1], messages[-1]["content"]


def reply_text(reply: Any, field: str) -> str:
    """Returns the text of a reply given as text or as a list of one assistant message.

    Raises:
        DataError: it is something else.
    """
    if isinstance(reply, list):
        if len(reply) != 1:
            raise DataError(f'field "{field}" must be a text or one assistant message; correct the row')
        return split_last_turn(reply, field)[1]
    return check_text(reply, f'field "{field}"')


def from_dialogue(text: Any, field: str) -> Messages:
    """Parses a dialogue string of HH-RLHF: "\\n\\nHuman: ...\\n\\nAssistant: ...".

    An empty assistant turn at the end, which marks where a response starts, is dropped.

    Raises:
        DataError: it does not begin with "\\n\\nHuman:".
    """
    if not is_dialogue(text):
        raise DataError(f'field "{field}" must begin with "\\n\\nHuman:"; correct the row')
    parts = SPEAKER.split(text)[1:]
    turns = [
        {"role": ROLES[speaker.lower()], "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns


def is_dialogue(value: Any) -> bool:
    """Whether a value is a dialogue string of HH-RLHF."""
    return isinstance(value, str) and value.startswith(HH_START)


def prompt_of(value: Any, field: str = "prompt") -> Any:
    """Returns a prompt given as text, as a dialogue string or as messages.

    Raises:
        DataError: it is something else.
    """
    if is_dialogue(value):
        return from_dialogue(value, field)
    if isinstance(value, list) and value:
        return as_messages(value, field)
    if not isinstance(value, str):
        raise DataError(f'field "{field}" must be a text or a list of messages, not {kind(value)}; correct the row')
    return value


def with_system(prompt: Any, system: Any) -> Any:
    """Returns a prompt as messages that start with a system message; unchanged if `system` is None or empty.

    Raises:
        DataError: `system` is not text, or the prompt has its own system message.
    """
    if system is None or system == "":
        return prompt
    check_text(system, 'field "system"')
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if messages[0]["role"] == "system":
        raise DataError('a system message stands in field "system" and in the prompt; remove one of them')
    return [{"role": "system", "content": system}, *messages]


def instruction_of(record: dict[str, Any], input_field: str) -> Any:
    """Returns Alpaca's instruction, followed after an empty line by its input if there is one, as a prompt.

    Earlier turns in `history`, pairs of question and answer (LLaMA-Factory), and a `system` message stand before it.

    Raises:
        DataError: a field is something else.
    """
    prompt: Any = check_text(record["instruction"], 'field "instruction"')
    if (text := record.get(input_field)) is not None and text != "":
        about = check_text(text, f'field "{input_field}"')
        prompt = f"{prompt}\n\n{about}"
    if turns := _history(record.get("history")):
        prompt = [*turns, {"role": "user", "content": prompt}]
    return with_system(prompt, record.get("system"))


def check_text(value: Any, name: str) -> str:
    """Returns the value, which must be text that is not blank and can be encoded.

    Args:
        value: anything.
        name: its name, for the message.

    Raises:
        DataError: it is not.
    """
    if not isinstance(value, str):
        raise DataError(f"{name} must be a text, not {kind(value)}; correct the row")
    if not value.strip():
        raise DataError(f"{name} is empty; fill it in or remove the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{name} holds half of a character (a lone surrogate such as \\ud83d); correct the row"
        ) from None
    return value


def kind(value: Any) -> str:
    """Describes the type of a value in words."""
    if value == []:
        return "an empty list"
    names = {type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "a text"}
    return names.get(type(value), "a list" if isinstance(value, list) else "an object")


def _history(history: Any) -> Messages:
    """Turns of pairs [question, answer]; in CSV they are written as JSON."""
    if isinstance(history, str) and history.strip():
        history = from_json(history)
    if history is None or history in ("", []):
        return []
    whole = isinstance(history, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in history)
    if not whole:
        raise DataError('field "history" must be a list of pairs [question, answer]; correct the row')
    return [
        {"role": role, "content": check_text(text, f'{role} turn {number} of field "history"')}
        for number, pair in enumerate(history, start=1)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def from_json(text: str) -> Any:
    """Returns the value, or the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _as_message(message: Any, name: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise DataError(f"{name} must have a role (system, user, assistant) and a content; correct the row")
    if message.get("tool_calls") or message.get("function_call"):
        raise DataError(f"{name} calls a tool, which no prompt format here can show; remove the row")
    # Files with several notations have all of their fields in each message, null where another one is used.
    speaker = message["role"] if message.get("role") is not None else message.get("from")
    role = ROLES.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise DataError(f"{name} must have a role (system, user, assistant) and a content; correct the row")
    content = message["content"] if message.get("content") is not None else message.get("value")
    # An empty system message switches the default one off.
    if role == "system" and content == "":
        return {"role": role, "content": ""}
    return {"role": role, "content": check_text(content, f"the content of {name}")}
