"""Prompts as left-padded batches, shared out between processes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_modules import PromptDataModule
from data_modules.batching.sampling import EpochBatchSampler
from data_modules.hygiene.steps import HygieneOptions
from lit_instruct.batches import PromptBatch
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter
from tests.tiny import tiny_tokenizer


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


DEMO = Path(__file__).parents[2] / "recipes" / "demo" / "data"


def test_the_demo_loses_nothing_to_hygiene(caplog: pytest.LogCaptureFixture):
    """Batches of the demo against a twin without files, caches and hygiene."""
    prompter = Prompter(tiny_tokenizer())
    read = {
        name: [json.loads(line) for line in (DEMO / f"prompts_{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("train", "validation")
    }
    options: Any = {"validation_path": str(DEMO / "prompts_validation.jsonl"), "max_prompt_length": 4096}
    data = PromptDataModule(str(DEMO / "prompts_train.jsonl"), **options, validation_limit=32, batch_size=32)
    data.prompter = prompter
    data.setup()
    loader = data.train_dataloader()
    sampler = EpochBatchSampler(len(read["train"]), 32, drop_last=True)
    for epoch in (0, 1):
        loader.batch_sampler.set_epoch(epoch)
        for batch, numbers in zip(loader, sampler.batches(epoch), strict=True):
            assert batch.row_number.tolist() == numbers
            _check(batch, [read["train"][number] for number in numbers], prompter)
    (batch,) = data.val_dataloader()
    _check(batch, read["validation"][:32], prompter)
    assert set(data.report.removed.values()) == {0}
    assert abs(data.report.use_cases["generation"] - 0.456) < 0.005


def _check(batch: PromptBatch, rows: list[dict[str, Any]], prompter: Prompter) -> None:
    ids = [prompter.prompt_ids(row["prompt"]) for row in rows]
    found = [one[mask].tolist() for one, mask in zip(batch.prompt_ids, batch.prompt_mask, strict=True)]
    assert found == ids
    assert [(row.prompt, row.user, row.use_case, row.extra) for row in batch.rows] == [
        (row["prompt"], row["user"], row["use_case"], {"template": row["template"]}) for row in rows
    ]


MANY = [
    {"prompt": "abcde", "user": "u"},
    {"prompt": "abcdz", "user": "v"},
    {"prompt": "bcd", "user": "u"},
    {"prompt": "cde", "user": "u"},
    {"prompt": "def", "user": "w"},
]


class Characters(Prompter):
    """One token per character, for prompts without letters."""

    def prompts_ids(self, prompts: Any) -> list[list[int]]:
        return [[ord(letter) for letter in prompt] for prompt in prompts]

    def texts_ids(self, texts: Any, split_special_tokens: bool = False) -> list[list[int]]:
        return self.prompts_ids(texts)


def test_hygiene_of_the_training_rows(write: Any, caplog: pytest.LogCaptureFixture):
    path = write(*MANY, {"prompt": "mail jo.frost@posteo.de", "user": "x"}, {"prompt": "a" * 99})
    options = HygieneOptions(unique_prefix=4, max_per_user=2)
    data = PromptDataModule(path, validation_share=0, max_prompt_length=50, on_long="drop", hygiene=options)
    data.prompter = Characters(tiny_tokenizer(), "raw")
    with caplog.at_level(logging.INFO):
        data.setup()
    assert [row.prompt for row in data.train_rows] == ["abcde", "bcd", "def"]
    assert data.report.removed == {
        "shared prefix": 1,
        "over the limit of a user": 1,
        "personal information": 1,
        "personal information (email)": 1,
    }
    assert (
        f"{path}: prompts removed by --data.hygiene: shared prefix 1, over the limit of a user 1, "
        "personal information 1, personal information (email) 1."
    ) in caplog.text
    assert f"{path}: dropped 1 of 7 rows longer than 50 tokens (--data.max_prompt_length)." in caplog.text


def test_prompts_of_a_validation_file_are_not_trained_on(write: Any):
    path, validation = write(*MANY), write({"prompt": "bcdx"}, {"prompt": "a@b.de"}, name="validation.jsonl")
    data = PromptDataModule(path, validation, hygiene=HygieneOptions(unique_prefix=3))
    data.prompter = Characters(tiny_tokenizer(), "raw")
    data.setup()
    assert [row.prompt for row in data.validation_rows] == ["bcdx", "a@b.de"]
    assert [row.prompt for row in data.train_rows] == ["abcde", "cde", "def"]


def test_users_are_on_one_side_of_the_split(write: Any, prompter: Prompter):
    path = write(*({"prompt": a + b, "user": a} for a in "abcdefghijklmnopqrst" for b in "xyz"))

    def users(**options: Any) -> tuple[set[str | None], set[str | None]]:
        data = PromptDataModule(path, validation_share=0.3, **options)
        data.prompter = prompter
        data.setup()
        return {row.user for row in data.train_rows}, {row.user for row in data.validation_rows}

    train, validation = users()
    assert train and validation and not train & validation
    train, validation = users(hygiene=HygieneOptions(split_by="prompt"))
    assert train & validation


def test_resampled_use_cases(write: Any, prompter: Prompter):
    path = write(*({"prompt": f"{letter}", "use_case": "chat" if letter < "f" else "qa"} for letter in "abcdefghi"))
    options = HygieneOptions(use_case_mix="chat=0.5,qa=0.5")
    data = PromptDataModule(path, validation_share=0, hygiene=options)
    data.prompter = prompter
    data.setup()
    assert data.report.use_cases == {"chat": 0.5, "qa": 0.5}
    assert data.report.removed["use-case mix"] == 1
    assert len(data.train_rows) == 8


def test_everything_removed_says_why(write: Any):
    path = write(MANY[0], MANY[1])
    data = PromptDataModule(path, path, hygiene=HygieneOptions(unique_prefix=4))
    data.prompter = Characters(tiny_tokenizer(), "raw")
    removed = r"\(2 read, 3 shared prefix\); loosen --data.hygiene.unique_prefix"
    with pytest.raises(UserError, match=rf"^{path}: no row is left to train on {removed}$"):
        data.setup()
