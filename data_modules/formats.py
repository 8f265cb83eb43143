"""Public dataset layouts, detected row by row and turned into the fields of `data_modules.rows`.

| layout | fields |
|---|---|
| ours | prompt + response; prompt + responses + ranks; prompt |
| TRL prompt-completion | prompt + completion (text or one assistant message) |
| conversation | messages, of which the last assistant turn is the response |
| TRL preference | chosen + rejected, with prompt or with messages that share all but the last turn |

A prompt is a text or a list of messages. Every other field of a row is kept as it is.
"""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]


def demonstration_fields(record: Record) -> Record:
    """Rewrites any layout of a demonstration as prompt + response.

    Raises:
        ValueError: no known layout fits.
    """
    fields = dict(record)
    if "messages" in fields and "response" not in fields:
        prompt, response = _split_last_turn(fields.pop("messages"), "messages")
        return {**fields, "prompt": prompt, "response": response}
    if "completion" in fields and "response" not in fields:
        fields["response"] = _reply_text(fields.pop("completion"), "completion")
    _require(fields, ("prompt", "response"), "prompt and response, prompt and completion, or messages")
    return fields


def comparison_fields(record: Record) -> Record:
    """Rewrites any layout of a ranked comparison as prompt + responses + ranks (chosen is 1, rejected is 2).

    Raises:
        ValueError: no known layout fits.
    """
    fields = dict(record)
    if "chosen" in fields and "rejected" in fields and "responses" not in fields:
        chosen, rejected = fields.pop("chosen"), fields.pop("rejected")
        if "prompt" not in fields and isinstance(chosen, list):
            fields["prompt"], chosen = _split_last_turn(chosen, "chosen")
            other_prompt, rejected = _split_last_turn(rejected, "rejected")
            if fields["prompt"] != other_prompt:
                raise ValueError("chosen and rejected must share all messages but the last; correct the row")
        fields["responses"] = [_reply_text(chosen, "chosen"), _reply_text(rejected, "rejected")]
        fields["ranks"] = [1, 2]
    _require(
        fields,
        ("prompt", "responses", "ranks"),
        "prompt, responses and ranks, or prompt, chosen and rejected",
    )
    return fields


def prompt_fields(record: Record) -> Record:
    """Rewrites any layout of a prompt as prompt; a conversation's last assistant turn is left out.

    Raises:
        ValueError: no known layout fits.
    """
    fields = dict(record)
    if "messages" in fields and "prompt" not in fields:
        messages = fields.pop("messages")
        answered = isinstance(messages, list) and messages and _is_assistant(messages[-1])
        fields["prompt"] = messages[:-1] if answered else messages
    _require(fields, ("prompt",), "prompt, or messages")
    return fields


def _require(fields: Record, names: tuple[str, ...], layouts: str) -> None:
    missing = next((name for name in names if name not in fields), None)
    if missing is not None:
        raise ValueError(f'field "{missing}" is missing; a row needs {layouts}')


def _is_assistant(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant"


def _split_last_turn(messages: Any, field: str) -> tuple[list[Any], Any]:
    """Splits a conversation into what comes before its last assistant turn, and that turn's text."""
    if not isinstance(messages, list) or not messages or not _is_assistant(messages[-1]):
        raise ValueError(
            f'field "{field}" must be a list of messages that ends with an assistant turn; correct the row'
        )
    return messages[:-1], messages[-1].get("content")


def _reply_text(reply: Any, field: str) -> Any:
    """The text of a reply given as text or as a list of one assistant message."""
    if isinstance(reply, list):
        if len(reply) != 1:
            raise ValueError(f'field "{field}" must be a text or one assistant message; correct the row')
        return _split_last_turn(reply, field)[1]
    return reply
