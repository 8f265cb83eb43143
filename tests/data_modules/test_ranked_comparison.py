"""Ranked comparisons as flat batches of all K sequences."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from data_modules import RankedComparisonDataModule
from lit_instruct.errors import DataError, UserError
from lit_instruct.prompting import Prompter

ROWS = [
    {"prompt": "a", "responses": ["b", "cd", "b"], "ranks": [2, 1, 2]},
    {"prompt": "ef", "responses": ["g", "h"], "ranks": [1, 2]},
]
TIED = {"prompt": "x", "responses": ["a", "b"], "ranks": [1, 1]}


def ready(prompter: Prompter, path: str, **options: Any) -> RankedComparisonDataModule:
    data = RankedComparisonDataModule(path, **{"validation_path": path, "batch_size": 2} | options)
    data.prompter = prompter
    data.setup("fit")
    return data


def test_items(write: Any, prompter: Prompter):
    data = ready(prompter, write(*ROWS))
    assert data.train_dataset[0] == {
        "sequences": [[101, 102, 2], [101, 103, 104, 2], [101, 102, 2]],
        "ranks": [2, 1, 2],
        "margin": [0.0, 0.0, 0.0],
        "row_number": 0,
    }


def test_batch_with_mixed_k(write: Any, prompter: Prompter):
    (batch,) = ready(prompter, write(*ROWS)).val_dataloader()
    assert batch.input_ids.tolist() == [
        [101, 102, 2, 0],
        [101, 103, 104, 2],
        [101, 102, 2, 0],
        [105, 106, 107, 2],
        [105, 106, 108, 2],
    ]
    assert batch.attention_mask.tolist()[0] == [True, True, True, False]
    assert batch.attention_mask.sum().item() == 18
    assert batch.ranks.tolist() == [2, 1, 2, 1, 2]
    assert batch.prompt_index.tolist() == [0, 0, 0, 1, 1]


def test_rows_of_ties_are_dropped_and_counted(write: Any, prompter: Prompter, caplog: pytest.LogCaptureFixture):
    path = write(ROWS[0], TIED, ROWS[1])
    with caplog.at_level(logging.INFO):
        data = ready(prompter, path)
    assert [row.prompt for row in data.train_rows] == ["a", "ef"]
    assert f"{path}: dropped 1 of 3 rows whose responses are all tied: no pair remains in them." in caplog.text


def test_only_ties(write: Any, prompter: Prompter):
    path = write(TIED)
    message = f"^{path}: no row is left to train on .1 read, 1 whose responses are all tied: no pair remains in them.$"
    with pytest.raises(UserError, match=message):
        ready(prompter, path)


def test_a_long_response_is_an_error_or_drops_the_row(write: Any, prompter: Prompter):
    path = write(*ROWS, {"prompt": "a", "responses": ["b", "bcde"], "ranks": [1, 2]})
    with pytest.raises(UserError, match=f"^{path}:3: prompt and response are 6 tokens long, over the limit of 5"):
        ready(prompter, path, max_length=5)
    assert len(ready(prompter, path, max_length=5, on_long="drop").train_rows) == 2


def test_demonstrations(write: Any, prompter: Prompter):
    demonstrations = write(*({"prompt": "a", "response": letter} for letter in "bcdefghij"), name="d.jsonl")
    data = ready(prompter, write(*ROWS), batch_size=1, demonstrations_path=demonstrations)
    first, second = data.demonstration_batches()
    assert [len(batch.input_ids) for batch in (first, second)] == [8, 1]
    assert second.input_ids.tolist() == [[101, 110, 2]]
    assert second.attention_mask.tolist() == [[True, True, True]]
    assert first.prompt_index.tolist() == list(range(8))
    assert list(ready(prompter, write(*ROWS)).demonstration_batches()) == []


def test_wrong_demonstrations(write: Any, prompter: Prompter):
    path = write({"prompt": "a", "response": ""}, name="d.jsonl")
    with pytest.raises(UserError, match=f'^{path}:1: field "response" is empty'):
        ready(prompter, write(*ROWS), demonstrations_path=path)


def test_longest_sequence_of_both_files(write: Any, prompter: Prompter):
    longer = write({"prompt": "abcdef", "responses": ["b", "cd"], "ranks": [1, 2]}, name="v.jsonl")
    assert ready(prompter, write(*ROWS), validation_path=longer).longest == 9
    assert ready(prompter, longer, validation_path=write(*ROWS)).longest == 9
    assert ready(prompter, write(*ROWS), validation_path=None, validation_share=0.0).longest == 4


def test_margins_of_pairs_as_in_trl_and_of_each_response(write: Any, prompter: Prompter):
    pair = {"prompt": "a", "responses": ["b", "c"], "margin": 0.5}
    rows = [pair | {"ranks": [1, 2]}, pair | {"ranks": [2, 1]}, ROWS[0] | {"margin": [1, 2.5, 0]}, ROWS[1]]
    (batch,) = ready(prompter, write(*rows), batch_size=4).val_dataloader()
    assert batch.margin.tolist() == [0.5, 0, 0, 0.5, 1, 2.5, 0, 0, 0]
    trl = write({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2}, name="trl.jsonl")
    (batch,) = ready(prompter, trl).val_dataloader()
    assert (batch.margin.tolist(), batch.ranks.tolist()) == ([2, 0], [1, 2])


def test_a_wrong_margin(write: Any, prompter: Prompter):
    path = write(ROWS[1], ROWS[0] | {"margin": 0.5})
    with pytest.raises(DataError, match=f'^{path}:2: field "margin" must be a list of 3 numbers, not a number; '):
        ready(prompter, path)
