"""A labeler of another kind than the models: whether a response is about its prompt, by sentence embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from evidence.judge import embeddings


def relevance(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Returns the cosine between the embeddings of each prompt and its response, in [-1, 1].

    The sentence model (`sources.SENTENCE_MODEL`) was trained on pairs of questions and answers among others. It cannot
    see whether a statement is true, nor grammar; the prompt said again scores highest.

    Args:
        pairs: (prompt, response) texts.
    """
    prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
    known = dict(zip(prompts, embeddings(prompts), strict=True))
    said = embeddings([response for _, response in pairs])
    return [float(known[prompt] @ vector) for (prompt, _), vector in zip(pairs, said, strict=True)]
