"""A prompter with readable ids: the raw one of the tiny tokenizer, where a letter's id is easy to look up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.prompting import Prompter
from tests.tiny import tiny_tokenizer

Writer = Callable[..., str]


class LetterPrompter(Prompter):
    """Raw prompts of single letters: "ab" is [101, 102]; EOS stays 2, padding 0."""

    def __init__(self) -> None:
        super().__init__(tiny_tokenizer(), "raw")

    def prompts_ids(self, prompts: Any) -> list[list[int]]:
        return [[ord(letter) - ord("a") + 101 for letter in prompt] for prompt in prompts]

    def responses_ids(self, responses: Any) -> list[list[int]]:
        return [[*ids, self.eos_id] for ids in self.prompts_ids(responses)]


@pytest.fixture
def prompter() -> Prompter:
    return LetterPrompter()


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes rows to a .jsonl file and returns its path."""

    def write_rows(*rows: dict[str, Any], name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write_rows
