"""A labeler that sees what was asked: the overlap of a response with the reference response of its row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.evaluation.labelers import words
from lit_instruct.prompting import Prompt, prompt_text

FIELDS = ("reference", "response", "completion", "output", "answer")
"""Columns that hold a reference response as text."""
CONVERSATIONS = ("messages", "completion")
"""Columns that hold it as the turn after the prompt."""


def overlap(prompts: Sequence[Prompt], responses: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Returns the F1 score of a response's words against those of the reference in its row (ROUGE-1, Lin 2004).

    ``score = 2 c / (n + m)`` with n words in the response, m in the reference and c in both, each as often as it occurs
    in both; in [0, 1]. Padding and cutting both lower it, so length alone does not raise it, and it needs no model. It
    cannot see paraphrases: another answer that is as good scores low.

    Args:
        prompts: texts or messages.
        responses: texts.
        rows: further columns of each prompt, with a reference as `reference_of` finds it.

    Raises:
        UserError: a row has no reference.
    """
    scores = []
    for prompt, response, row in zip(prompts, responses, rows, strict=True):
        reference = reference_of(prompt, row)
        if reference is None:
            raise UserError(f"no reference response for {prompt_text(prompt)[:60]!r}; name its column {FIELDS[0]!r}")
        scores.append(_f1(words(response), words(reference)))
    return scores


def reference_of(prompt: Prompt, row: Mapping[str, Any]) -> str | None:
    """Returns the reference response among a row's columns, or None without one.

    A text in one of `FIELDS`, or in a conversation the first turn of the assistant after the prompt's last question.
    """
    text = next((row[name] for name in FIELDS if isinstance(row.get(name), str) and row[name].strip()), None)
    return text if text is not None else next(filter(None, (_answer(prompt, row.get(n)) for n in CONVERSATIONS)), None)


def _answer(prompt: Prompt, turns: Any) -> str | None:
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        return None
    asked, question = False, prompt_text(prompt).strip()
    for turn in turns:
        said = turn.get("content")
        if turn.get("role") == "assistant" and isinstance(said, str) and (asked or turn is turns[0]):
            return said
        asked = asked or (isinstance(said, str) and said.strip() == question)
    return None


def _f1(response: list[str], reference: list[str]) -> float:
    both = sum((Counter(response) & Counter(reference)).values())
    return 2 * both / (len(response) + len(reference)) if both else 0.0
