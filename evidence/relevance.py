"""A labeler of another kind than the models: whether a response adds something about its prompt."""

from __future__ import annotations

from collections.abc import Sequence

from evidence.judge import embeddings
from lit_instruct.evaluation.labelers import words


def relevance(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Returns the cosine between a prompt and what its response adds, in [-1, 1].

    Both are sentence embeddings (`sources.SENTENCE_MODEL`, which was trained on questions and answers among others); of
    the response only words count that the prompt does not have, so that an echo scores low. It sees neither whether a
    statement is true, nor grammar, nor whether the text ends. Of the first 200 pairs of
    recipes/demo/labeler_pairs.jsonl it picks the right response in 78 %: 97 % against answers to something else, 94 %
    against echoes, 85 % against repetition, 79 % against generic praise, 73 % against harsh and 36 % against unfinished
    ones.

    Args:
        pairs: (prompt, response) texts.
    """
    prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
    known = dict(zip(prompts, embeddings(prompts), strict=True))
    said = embeddings([added(prompt, response) for prompt, response in pairs])
    return [float(known[prompt] @ vector) for (prompt, _), vector in zip(pairs, said, strict=True)]


def added(prompt: str, response: str) -> str:
    """Returns the words of a response that its prompt does not have: ("A red cat?", "A cat sleeps") -> "sleeps"."""
    asked = set(words(prompt))
    return " ".join(word for word in words(response) if word not in asked)
