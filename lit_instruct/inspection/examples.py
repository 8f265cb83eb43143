"""Rows as the model sees them: spans of text, and which of them the loss (or the reward) applies to."""

from __future__ import annotations

from dataclasses import dataclass

from data_modules.rows import Demonstration, RankedComparison, Row
from lit_instruct.prompting import Prompter


@dataclass
class Piece:
    """A span of a rendered row."""

    text: str
    """With special tokens."""
    trained: bool
    """Whether the loss applies to it; in comparisons, whether it is a ranked response."""


@dataclass
class Example:
    """A rendered row."""

    where: str
    title: str
    pieces: list[Piece]


def rendered(row: Row, prompter: Prompter, every_turn: bool) -> Example:
    """Renders a row as the model sees it; for a comparison, the prompt once and then the responses by rank.

    Args:
        row: of any kind.
        prompter: of the model.
        every_turn: whether a demonstration is trained on every assistant turn, or only on the last.
    """
    prompt = Piece(_text(prompter, prompter.prompt_ids(row.prompt)), trained=False)
    if isinstance(row, RankedComparison):
        pieces = [prompt]
        for rank, response in sorted(zip(row.ranks, row.responses, strict=True), key=lambda pair: pair[0]):
            pieces += [
                Piece(f"\n-- rank {rank}: ", trained=False),
                Piece(_text(prompter, prompter.response_ids(response)), trained=True),
            ]
        return Example(row.where, f"comparison, K = {len(row.ranks)}", pieces)
    if isinstance(row, Demonstration):
        pieces = [prompt, Piece(_text(prompter, prompter.response_ids(row.response)), trained=True)]
        if every_turn:
            turns = prompter.turn_ids(row.prompt, row.response)
            pieces = [Piece(_text(prompter, ids), trained) for ids, trained in turns]
        return Example(row.where, "demonstration", pieces)
    return Example(row.where, "prompt, before the sampled response", [prompt, Piece("", trained=True)])


def _text(prompter: Prompter, ids: list[int]) -> str:
    return str(prompter.tokenizer.decode(ids))
