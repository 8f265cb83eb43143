"""Rows -> the numbers that decide splitting and hygiene: a few bytes per row, however long the rows are."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_modules.hygiene.personal_information import KINDS, find_personal_information
from data_modules.hygiene.steps import NO_USER, Cleaned, FactArrays, HygieneOptions, clean, is_few_shot, split_off
from data_modules.rows import PromptRow
from lit_instruct.prompting import Prompt, Prompter

UNKNOWN = "unknown"
MAX_USE_CASES = 1000
"""A field with more distinct values does not hold use cases; further ones count as unknown."""


class SplitFacts:
    """Splits rows by their prompt and removes none: 8 bytes per row."""

    def __init__(self) -> None:
        self.split = array("d")

    def add(self, rows: Sequence[Any]) -> None:
        """Records the facts of more rows."""
        self.split.extend(unit_hash(row.prompt) for row in rows)

    def choose(self, validation_rows: int | None, share: float, seed: int) -> Cleaned:
        """Decides which rows train and which validate.

        Args:
            validation_rows: this many rows at the start are a validation file; None splits off `share` of the rows.
            share: in [0, 1).
            seed: unused.
        """
        if validation_rows is None:
            validation = split_off(np.frombuffer(self.split), share)
        else:
            validation = np.arange(len(self.split)) < validation_rows
        return Cleaned(~validation, validation)


class PromptFacts(SplitFacts):
    """What the hygiene steps need to know about each prompt: at most 27 bytes per row.

    Args:
        options: only what their steps need is recorded.
        prompter: holds the tokenizer.
    """

    def __init__(self, options: HygieneOptions, prompter: Prompter) -> None:
        super().__init__()
        self.options, self.prompter = options, prompter
        self.prefix, self.user = array("Q"), array("Q")
        self.personal, self.use_case = array("B"), array("H")
        self.use_cases = {UNKNOWN: 0}

    def add(self, rows: Sequence[PromptRow]) -> None:
        """Records the facts of more rows."""
        options = self.options
        by_user = options.split_by == "user"
        self.split.extend(unit_hash(["user", row.user] if by_user and row.user else row.prompt) for row in rows)
        self.use_case.extend(self._use_case(row.use_case) for row in rows)
        if options.max_per_user is not None:
            self.user.extend(hash_64(row.user.encode()) if row.user else NO_USER for row in rows)
        if options.unique_prefix is not None:
            self.prefix.extend(self._prefixes([user_text(row.prompt) for row in rows], options.unique_prefix))
        if options.personal_information == "drop":
            self.personal.extend(_kinds(whole_text(row.prompt)) for row in rows)

    def choose(self, validation_rows: int | None, share: float, seed: int) -> Cleaned:
        """Applies `clean`, which has the same arguments."""
        facts = FactArrays(
            np.frombuffer(self.split, np.float64),
            np.frombuffer(self.prefix, np.uint64),
            np.frombuffer(self.user, np.uint64),
            np.frombuffer(self.personal, np.uint8),
            np.frombuffer(self.use_case, np.uint16),
        )
        return clean(facts, self.options, list(self.use_cases), validation_rows, share, seed)

    def _prefixes(self, texts: list[str], length: int) -> list[int]:
        """Hashes the first `length` tokens of each text, or all tokens of a few-shot prompt."""
        all_ids = self.prompter.texts_ids(texts, split_special_tokens=True)
        return [
            hash_64(array("I", ids if self.options.exempt_few_shot and is_few_shot(text) else ids[:length]).tobytes())
            for text, ids in zip(texts, all_ids, strict=True)
        ]

    def _use_case(self, name: str | None) -> int:
        if name is None or (name not in self.use_cases and len(self.use_cases) >= MAX_USE_CASES):
            return 0
        return self.use_cases.setdefault(name, len(self.use_cases))


def user_text(prompt: Prompt) -> str:
    """The text of a prompt without its system message, which many prompts share."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(message["content"] for message in prompt if message["role"] != "system")


def whole_text(prompt: Prompt) -> str:
    """The whole text of a prompt."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def unit_hash(value: Any) -> float:
    """Hashes a JSON-able value to a number in [0, 1)."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def hash_64(value: bytes) -> int:
    """Hashes bytes to a number in [1, 2^64): 0 is NO_USER."""
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "big") or 1


def _kinds(text: str) -> int:
    found = find_personal_information(text)
    return sum(1 << bit for bit, kind in enumerate(KINDS) if kind in found)
