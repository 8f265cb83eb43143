"""Rows as the model sees them: spans of text, and which of them the loss (or the reward) applies to."""

from __future__ import annotations

from dataclasses import dataclass

from data_modules.rows import Demonstration, RankedComparison, Row
from lit_instruct.inspection.statistics import seems_cut_off
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
            pieces += [Piece(f"\n-- rank {rank}: ", trained=False), *_response(prompter, response)]
        return Example(row.where, f"comparison, K = {len(row.ranks)}", pieces)
    if isinstance(row, Demonstration):
        pieces = [prompt, *_response(prompter, row.response)]
        if every_turn:
            earlier = prompter.turn_ids(row.prompt, row.response)[:-1]
            pieces = [Piece(_text(prompter, ids), trained) for ids, trained in earlier]
            pieces += _response(prompter, row.response)
        return Example(row.where, "demonstration", pieces)
    return Example(row.where, "prompt, before the sampled response", [prompt, Piece("", trained=True)])


def _response(prompter: Prompter, response: str) -> list[Piece]:
    """The response as it is trained on, and a remark if it seems cut off."""
    shown = Piece(_text(prompter, prompter.response_ids(response)), trained=True)
    end = _text(prompter, [prompter.eos_id])
    remark = f" (seems cut off in the data; {end} is added all the same)"
    return [shown, Piece(remark, trained=False)] if seems_cut_off(response) else [shown]


def _text(prompter: Prompter, ids: list[int]) -> str:
    return str(prompter.tokenizer.decode(ids))
