"""Layouts of prompt and response (step 1)."""

from __future__ import annotations

from data_modules.formats.layout import Fields, Layout, Record
from data_modules.formats.messages import instruction_of, prompt_of, reply_text, split_last_turn, with_system


def _prompt_response(record: Record) -> Fields:
    prompt = with_system(prompt_of(record["prompt"]), record.get("system"))
    return [{"prompt": prompt, "response": record["response"]}]


def _prompt_completion(record: Record) -> Fields:
    prompt = with_system(prompt_of(record["prompt"]), record.get("system"))
    return [{"prompt": prompt, "response": reply_text(record["completion"], "completion")}]


def _conversation(name: str, field: str) -> Layout:
    """A conversation whose last assistant turn is the response."""

    def convert(record: Record) -> Fields:
        prompt, response = split_last_turn(record[field], field)
        return [{"prompt": with_system(prompt, record.get("system")), "response": response}]

    return Layout(name, (field,), convert, takes=("system",))


def _alpaca(record: Record) -> Fields:
    return [{"prompt": instruction_of(record, "input"), "response": record["output"]}]


def _dolly(record: Record) -> Fields:
    use_case = {"use_case": record["category"]} if isinstance(record.get("category"), str) else {}
    return [{"prompt": instruction_of(record, "context"), "response": record["response"], **use_case}]


DEMONSTRATION_LAYOUTS = (
    Layout("prompt-response", ("prompt", "response"), _prompt_response, takes=("system",)),
    Layout("prompt-completion", ("prompt", "completion"), _prompt_completion, takes=("system",)),
    _conversation("messages", "messages"),
    _conversation("sharegpt", "conversations"),
    Layout("alpaca", ("instruction", "output"), _alpaca, takes=("input", "history", "system")),
    Layout("dolly", ("instruction", "response"), _dolly, takes=("context", "category", "history", "system")),
)
"""Each before those it could be mistaken for: many datasets have fields beyond those that identify their layout."""
