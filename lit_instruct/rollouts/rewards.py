"""Rewards that come from outside the shared base: a model of its own, or a Python function."""

from __future__ import annotations

from lit_instruct.prompting import prompt_text
from lit_instruct.rollouts.collect import TextScorer
from lit_instruct.rollouts.score import TextReward, label, load_labeler


def text_scorer(model: str | None, function: str | None) -> TextScorer:
    """Returns what scores texts: a reward model with a tokenizer of its own, or a function where one is named.

    Args:
        model: stage folder, Hugging Face folder or hub id of a sequence classifier with one output.
        function: import path of a function list[(prompt, response)] -> list[float].

    Raises:
        UserError: it cannot be opened or imported.
    """
    if function is None:
        assert model is not None
        return TextReward.from_source(model).score
    labeler = load_labeler(function)
    return lambda prompts, texts: label(
        labeler, [(prompt_text(prompt), text) for prompt, text in zip(prompts, texts, strict=True)], function
    )
