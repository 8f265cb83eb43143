"""Rows of loaders that a user made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from data_modules.loaders import IDS, LoaderRows, rows_of_loader
from data_modules.reading.given import GivenRows
from data_modules.rows import Demonstration, PromptRow, RankedComparison, read_rows
from lit_instruct.batches import PromptBatch
from lit_instruct.errors import DataError, UserError

TEXTS = [f"prompt {number}" for number in range(5)]
PAIRS = [{"prompt": text, "response": "yes"} for text in TEXTS]
NAME = "train_dataloader"


class Stream(IterableDataset):
    """Texts that come one at a time."""

    def __iter__(self) -> Iterator[str]:
        return iter(TEXTS)


def rows(loader: Any) -> list[Any]:
    return list(rows_of_loader(loader, NAME).rows.rows)


@pytest.mark.parametrize(
    ("loader", "found"),
    [
        (DataLoader(TEXTS, batch_size=2), TEXTS),
        (DataLoader(TEXTS, batch_size=2, collate_fn=list), TEXTS),
        (DataLoader(TEXTS, batch_size=2, collate_fn=lambda batch: {"prompt": batch}), [{"prompt": x} for x in TEXTS]),
        (
            DataLoader(TEXTS, batch_size=2, collate_fn=lambda batch: [x.upper() for x in batch]),
            [x.upper() for x in TEXTS],
        ),
        (DataLoader(PAIRS, batch_size=2), PAIRS),
        (DataLoader(Dataset.from_list(PAIRS), batch_size=2), PAIRS),
        (DataLoader([TEXTS[:2], TEXTS[2:4]], batch_size=None), TEXTS[:4]),
        (DataLoader(Stream(), batch_size=2), TEXTS),
        (DataLoader(TEXTS, sampler=SubsetRandomSampler([3, 1]), batch_size=2), [TEXTS[3], TEXTS[1]]),
        ([DataLoader(TEXTS, batch_size=2)], TEXTS),
        ([TEXTS[:2], TEXTS[2:4]], TEXTS[:4]),
        ([{"prompt": TEXTS[:2]}], [{"prompt": x} for x in TEXTS[:2]]),
        ((TEXTS[i : i + 2] for i in (0, 2)), TEXTS[:4]),
        (PAIRS, PAIRS),
    ],
)
def test_rows(loader: Any, found: list[Any]) -> None:
    assert rows(loader) == found


def made(**options: Any) -> LoaderRows:
    return rows_of_loader(DataLoader(TEXTS, **options), NAME)


def test_batches() -> None:
    assert (made(batch_size=3).batch_size, made(batch_size=3).shuffle) == (3, False)
    assert made(shuffle=True).shuffle
    assert made(batch_size=2, drop_last=True).drop_last
    assert made(sampler=DistributedSampler(TEXTS, 2, 1)).shuffle
    assert list(made(sampler=DistributedSampler(TEXTS, 2, 1)).rows.rows) == TEXTS
    assert rows_of_loader([TEXTS[:2], TEXTS[2:]], NAME).batch_size == 3


@pytest.mark.parametrize(
    ("loader", "sentence"),
    [
        (DataLoader(TEXTS, sampler=WeightedRandomSampler([1.0] * 5, 5)), "its sampler WeightedRandomSampler cannot be"),
        (DataLoader(TEXTS, batch_sampler=[[0], [1, 2]]), "its batch_sampler list cannot be followed"),
        ({"one": DataLoader(TEXTS)}, "several loaders; give one"),
        ([DataLoader(TEXTS), DataLoader(TEXTS)], "several loaders; give one"),
        ([CombinedLoader([DataLoader(TEXTS)])], "several loaders; give one"),
        ("prompts.jsonl", "a str is no loader"),
        (7, "a int is no loader"),
        ([], "there are no rows in it"),
        (DataLoader(TEXTS, collate_fn=torch.ones_like), None),
        (DataLoader(TEXTS, collate_fn=lambda _: torch.ones(2)), "a batch is a Tensor; give a list of rows"),
        (DataLoader(TEXTS, collate_fn=lambda _: {"input_ids": torch.ones(1, 2)}), "its batches have token ids"),
        ([{"prompt": TEXTS, "response": ["one"]}], "the columns of a batch have different lengths"),
    ],
)
def test_what_cannot_be_followed(loader: Any, sentence: str | None) -> None:
    with pytest.raises(UserError if sentence else TypeError, match=sentence):
        rows(loader)


def test_a_stream_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_modules.loaders.MOST", 3)
    with pytest.raises(UserError, match="its stream did not end after 3 rows"):
        rows(DataLoader(Stream()))


def test_a_batch_sampler_of_torch_is_followed() -> None:
    loader = DataLoader(TEXTS, batch_sampler=BatchSampler(SequentialSampler(TEXTS), 2, False))
    assert rows(loader) == TEXTS


def test_prompt_batches() -> None:
    ids, mask = torch.tensor([[0, 4, 5], [6, 7, 8]]), torch.tensor([[False, True, True], [True] * 3])
    given = PromptBatch(ids, mask, torch.tensor([0, 1]), ["one", PromptRow("two", use_case="chat")])
    found = rows_of_loader([given], NAME)
    assert found.tokenised
    assert found.batch_size == 2
    first, second = read_rows(found.rows, PromptRow)
    assert (first.prompt, first.extra) == ("one", {IDS: [4, 5]})
    assert (second.prompt, second.use_case, second.extra) == ("two", "chat", {IDS: [6, 7, 8]})
    with pytest.raises(UserError, match="a PromptBatch has 1 rows for 2 prompts"):
        rows([given._replace(rows=["one"])])


def test_rows_are_read_as_those_of_a_file() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    given = GivenRows(NAME, [messages])
    (row,) = read_rows(given, Demonstration)
    assert (row.prompt, row.response, row.where) == ([messages[0]], "Hello", f"{NAME}:row 1")
    pair = {"prompt": "p", "chosen": "a", "rejected": "b", "margin": np.float32(0.5), "length": torch.tensor(3)}
    (comparison,) = read_rows(GivenRows(NAME, [pair]), RankedComparison)
    assert (comparison.responses, comparison.ranks, comparison.extra) == (["a", "b"], [1, 2], {"length": 3})
    assert read_rows(GivenRows(NAME, [Demonstration("p", "r", extra={"by": "me"})]), Demonstration)[0].extra == {
        "by": "me"
    }


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"question": "p"}, f'{NAME}:row 2: field "prompt" is missing'),
        (("p", "r"), f"{NAME}:row 2: a row is a dict, a text or a list of messages, not"),
        ({"prompt": "p", "file": object()}, f"{NAME}:row 2: a builtins.object is no data"),
        (3, f"{NAME}:row 2: a row is a dict"),
    ],
)
def test_a_bad_row_is_named(bad: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_rows(GivenRows(NAME, ["fine", bad]), PromptRow)


def test_equal_rows_have_equal_digests() -> None:
    assert GivenRows("a", TEXTS).digest() == GivenRows("b", tuple(TEXTS)).digest()
    assert GivenRows("a", TEXTS).digest() != GivenRows("a", TEXTS[::-1]).digest()
