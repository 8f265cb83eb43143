"""Demonstrations as ids, labels and padded batches."""

from __future__ import annotations

from typing import Any

import pytest

from data_modules import PromptResponseDataModule
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter
from tests.tiny import tiny_tokenizer

ROWS = [{"prompt": "ab", "response": "c"}, {"prompt": "d", "response": "efg"}]


def ready(prompter: Prompter, path: str, **options: Any) -> PromptResponseDataModule:
    data = PromptResponseDataModule(path, **{"validation_share": 0.0, "batch_size": 2} | options)
    data.prompter = prompter
    data.setup("fit")
    return data


def test_labels_look_away_from_the_prompt(write: Any, prompter: Prompter):
    data = ready(prompter, write(*ROWS))
    assert data.train_dataset[:] == {
        "input_ids": [[101, 102, 103, 2], [104, 105, 106, 107, 2]],
        "labels": [[-100, -100, 103, 2], [-100, 105, 106, 107, 2]],
    }
    assert [row.response for row in data.train_rows] == ["c", "efg"]
    assert data.validation_dataset is None and data.val_dataloader() == []


def test_loss_on_all_tokens(write: Any, prompter: Prompter):
    data = ready(prompter, write(*ROWS), loss_on="all")
    assert data.train_dataset["labels"][:] == [[101, 102, 103, 2], [104, 105, 106, 107, 2]]


def test_a_conversation_trains_on_every_assistant_turn_or_the_last(write: Any):
    messages = [
        {"role": role, "content": content}
        for role, content in (("user", "the sea"), ("assistant", "Paris."), ("user", "and"), ("assistant", "the wind."))
    ]
    path = write({"messages": messages})
    prompter = Prompter(tiny_tokenizer())
    items = {on: ready(prompter, path, loss_on=on).train_dataset[0] for on in ("responses", "last_response", "all")}
    paris, wind = prompter.response_ids("Paris."), prompter.response_ids("the wind.")
    trained = {on: [label for label in item["labels"] if label != -100] for on, item in items.items()}
    assert trained["responses"] == paris + wind
    assert trained["last_response"] == wind
    assert trained["all"] == items["all"]["input_ids"] == items["responses"]["input_ids"]
    for item in items.values():
        assert all(label in (-100, i) for i, label in zip(item["input_ids"], item["labels"], strict=True))


def test_padded_batch(write: Any, prompter: Prompter):
    path = write(*ROWS)
    data = ready(prompter, path, validation_path=path)
    (batch,) = data.val_dataloader()
    assert batch["input_ids"].tolist() == [[101, 102, 103, 2, 0], [104, 105, 106, 107, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 103, 2, -100], [-100, 105, 106, 107, 2]]


def test_use_replaces_datasets_and_collate(write: Any, prompter: Prompter):
    data = ready(prompter, write(*ROWS))
    data.use([1, 2, 3], [4, 5], sum)
    assert sum(data.train_dataloader()) == 6
    assert len(data.train_dataloader()) == 2
    assert [len(rows) for rows in data.train_sampler.batches(0)] == [2, 1]
    assert list(data.val_dataloader()) == [9]
    data.setup("validate")  # Trainer.validate after fit must not tokenise again
    assert data.train_dataset == [1, 2, 3]


def test_chat_rows_end_in_one_eos(write: Any):
    data = ready(Prompter(tiny_tokenizer()), write({"prompt": "the sea", "response": "Paris."}))
    item = data.train_dataset[0]
    response = [label for label in item["labels"] if label != -100]
    assert data.get_prompter().decode(response) == "Paris."
    assert item["input_ids"][-len(response) :] == response
    assert (response[-1], response.count(2)) == (2, 1)


def test_long_rows(write: Any, prompter: Prompter):
    path = write(*ROWS)
    with pytest.raises(
        UserError,
        match=f"^{path}:2: prompt and response are 5 tokens long, over the limit of 4; raise --data.max_",
    ):
        ready(prompter, path, max_length=4)
    assert len(ready(prompter, path, max_length=4, on_long="drop").train_rows) == 1


def test_impossible_loss_on():
    with pytest.raises(
        UserError, match="^--data.loss_on: prompts is not possible; it must be responses, last_response or all$"
    ):
        PromptResponseDataModule("x", loss_on="prompts")  # type: ignore[arg-type]
