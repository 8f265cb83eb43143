"""Rows as the model sees them: spans of text, and which of them the loss (or the reward) applies to."""

from __future__ import annotations

from typing import NamedTuple

from data_modules.rows import Demonstration, RankedComparison, Row
from lit_instruct.prompting import Prompter


class Piece(NamedTuple):
    """A span of a rendered row."""

    text: str
    """With special tokens."""
    trained: bool
    """Whether the loss applies to it; in comparisons, whether it is a ranked response."""


class Example(NamedTuple):
    """A rendered row."""

    where: str
    pieces: list[Piece]
    title: str


def rendered(row: Row, prompter: Prompter, every_turn: bool) -> Example:
    """Renders a row as the model sees it; for a comparison, the prompt once and then the responses by rank.

    Args:
        row: of any kind.
        prompter: of the model.
        every_turn: whether a demonstration is trained on every assistant turn, or only on the last.
    """
    if isinstance(row, RankedComparison):
        prompt = Piece(_text(prompter, prompter.prompt_ids(row.prompt)), trained=False)
        pieces = [prompt]
        for rank, response in sorted(zip(row.ranks, row.responses, strict=True), key=lambda pair: pair[0]):
            pieces += [
                Piece(f"\n-- rank {rank}: ", trained=False),
                Piece(_text(prompter, prompter.response_ids(response)), trained=True),
            ]
        return Example(row.where, pieces, f"comparison, K = {len(row.ranks)}")
    if isinstance(row, Demonstration):
        turns = [(prompter.prompt_ids(row.prompt), False), (prompter.response_ids(row.response), True)]
        turns = prompter.turn_ids(row.prompt, row.response) if every_turn else turns
        return Example(row.where, [Piece(_text(prompter, ids), trained) for ids, trained in turns], "demonstration")
    prompt = Piece(_text(prompter, prompter.prompt_ids(row.prompt)), trained=False)
    return Example(row.where, [prompt, Piece("", trained=True)], "prompt, before the sampled response")


def _text(prompter: Prompter, ids: list[int]) -> str:
    return str(prompter.tokenizer.decode(ids))
