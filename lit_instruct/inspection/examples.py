"""Rows as the model sees them: text in pieces, and which pieces the loss (or the reward) is about."""

from __future__ import annotations

from typing import NamedTuple

from data_modules.rows import Demonstration, RankedComparison, Row
from lit_instruct.prompting import Prompter


class Piece(NamedTuple):
    """A part of a rendered row."""

    text: str
    """Special tokens written out."""
    trained: bool
    """Whether the loss is about it; in comparisons, whether it is a response that is ranked."""


class Example(NamedTuple):
    """A rendered row."""

    where: str
    pieces: list[Piece]
    title: str


def rendered(row: Row, prompter: Prompter, every_turn: bool) -> Example:
    """A row as the model sees it; of a comparison, the prompt once and the responses in the order of their ranks.

    Args:
        row: any kind of row.
        prompter: of the model.
        every_turn: whether every assistant turn of a demonstration is trained on, or the last one.
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
