"""Hashes of prompts, by which an evaluation tells whether a stage has trained on a prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

import numpy as np

from lit_instruct.prompting.prompter import Prompt


def prompt_hash(prompt: Prompt) -> int:
    """Returns a 64-bit hash of what was asked: the same for a text and for one user message with that text.

    System messages and the kind and amount of white space do not count.
    """
    turns = [("user", prompt)] if isinstance(prompt, str) else [(turn["role"], turn["content"]) for turn in prompt]
    asked = [(role, " ".join(str(text).split())) for role, text in turns if role != "system"]
    digest = hashlib.blake2b(json.dumps(asked).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def questions_in(prompt: Prompt) -> Iterator[Prompt]:
    """Yields a prompt and, of a conversation, every earlier beginning of it that ends with a turn of the user."""
    if not isinstance(prompt, str):
        yield from (prompt[: i + 1] for i, turn in enumerate(prompt[:-1]) if turn["role"] == "user")
    yield prompt


def hashes_of(prompts: Iterable[Prompt]) -> np.ndarray:
    """Returns the distinct hashes of prompts, sorted: (n,) uint64, 8 bytes per prompt."""
    return np.unique(np.fromiter((prompt_hash(prompt) for prompt in prompts), dtype=np.uint64))
