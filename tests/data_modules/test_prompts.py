"""Prompts as left-padded batches, shared out between processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from data_modules import PromptDataModule
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter


def ready(prompter: Prompter, path: str, rank: int = 0, world_size: int = 1, **options: Any) -> PromptDataModule:
    data = PromptDataModule(path, **{"validation_path": path, "batch_size": 2} | options)
    data.prompter = prompter
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)  # type: ignore[assignment]
    data.setup("fit")
    return data


def test_batch(write: Any, prompter: Prompter):
    data = ready(prompter, write({"prompt": "abc", "user": "u"}, {"prompt": "d"}, {"prompt": "ef"}))
    first, second = data.val_dataloader()
    assert first.prompt_ids.tolist() == [[101, 102, 103], [0, 0, 104]]
    assert first.prompt_mask.tolist() == [[True, True, True], [False, False, True]]
    assert first.row_number.tolist() == [0, 1]
    assert first.rows == data.validation_rows[:2]
    assert first.rows[0].user == "u"
    assert second.row_number.tolist() == [2]


def test_training_batches_are_full_and_validation_is_whole(write: Any, prompter: Prompter):
    data = ready(prompter, write(*({"prompt": letter} for letter in "abcde")))
    assert [len(batch.rows) for batch in data.train_dataloader()] == [2, 2]
    assert sorted(i for batch in data.val_dataloader() for i in batch.row_number.tolist()) == [0, 1, 2, 3, 4]


def test_batch_size_is_global(write: Any, prompter: Prompter):
    path = write(*({"prompt": letter} for letter in "abcdefgh"))
    whole = [batch.row_number.tolist() for batch in ready(prompter, path, batch_size=4).train_dataloader()]
    parts = [ready(prompter, path, rank, 2, batch_size=4).train_dataloader() for rank in (0, 1)]
    assert [a.row_number.tolist() + b.row_number.tolist() for a, b in zip(*parts, strict=True)] == whole
    with pytest.raises(UserError, match="^--data.batch_size: 3 is not possible; it must be a multiple of the 2 proc"):
        ready(prompter, path, world_size=2, batch_size=3).train_dataloader()


def test_pretraining_text(tmp_path, write: Any, prompter: Prompter):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 20)
    path = write({"prompt": "a"}, {"prompt": "b"})
    assert ready(prompter, path).pretraining is None
    data = ready(prompter, path, pretraining_path=str(text), pretraining_block=8)
    assert data.pretraining is not None
    assert data.pretraining.batch(0, 3, 0, 1).shape == (3, 8)


@pytest.mark.parametrize(
    ("option", "value"), [("max_prompt_length", 0), ("validation_limit", 0), ("pretraining_block", 1)]
)
def test_impossible_options(option: str, value: int):
    with pytest.raises(UserError, match=f"^--data.{option}: {value} is not possible"):
        PromptDataModule("x", **{option: value})  # type: ignore[arg-type]
