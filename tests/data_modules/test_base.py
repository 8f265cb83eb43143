"""Options, splitting and length limits that all DataModules share."""

from __future__ import annotations

import logging
from typing import Any

import lightning
import pytest
import torch

from data_modules import PromptDataModule, PromptResponseDataModule, RankedComparisonDataModule
from data_modules.base import RowDataModule
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter
from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

ALL: list[type[RowDataModule[Any]]] = [PromptDataModule, PromptResponseDataModule, RankedComparisonDataModule]


@pytest.mark.parametrize("module", ALL)
@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("batch_size", 0, "at least 1"),
        ("validation_share", 1.0, "at least 0 and below 1"),
        ("limit", 0, "at least 1"),
        ("on_long", "cut", "error or drop"),
    ],
)
def test_impossible_options(module: Any, option: str, value: Any, wanted: str):
    with pytest.raises(UserError, match=f"^--data.{option}: {value} is not possible; it must be {wanted}$"):
        module("rows.jsonl", **{option: value})


def test_missing_file_is_reported_in_setup(prompter: Prompter):
    data = PromptDataModule("nowhere/rows.jsonl")
    data.prompter = prompter
    with pytest.raises(UserError, match="^nowhere/rows.jsonl: no such file; check the path, or"):
        data.setup()


def test_limit_takes_the_first_rows(write: Any, prompter: Prompter):
    path = write(*({"prompt": letter} for letter in "abcdef"))
    data = PromptDataModule(path, validation_path=path, validation_limit=2, limit=3)
    data.prompter = prompter
    data.setup()
    assert [row.prompt for row in data.train_rows] == ["a", "b", "c"]
    assert [row.prompt for row in data.validation_rows] == ["a", "b"]


def test_long_prompts_are_errors_or_dropped(write: Any, prompter: Prompter, caplog: pytest.LogCaptureFixture):
    path = write({"prompt": "ab"}, {"prompt": "abcd"}, {"prompt": "abc"})
    data = PromptDataModule(path, validation_share=0, max_prompt_length=3)
    data.prompter = prompter
    message = (
        f"^{path}:2: the prompt is 4 tokens long, over the limit of 3; raise --data.max_prompt_length, "
        "shorten the row, or leave such rows out with --data.on_long=drop$"
    )
    with pytest.raises(UserError, match=message):
        data.setup()
    data = PromptDataModule(path, validation_share=0, max_prompt_length=3, on_long="drop")
    data.prompter = prompter
    with caplog.at_level(logging.INFO):
        data.setup()
    assert [row.prompt for row in data.train_rows] == ["ab", "abc"]
    assert f"{path}: dropped 1 of 3 rows longer than 3 tokens (--data.max_prompt_length)." in caplog.text


def test_nothing_left_to_train_on(write: Any, prompter: Prompter):
    path = write({"prompt": "abcd"})
    data = PromptDataModule(path, max_prompt_length=3, on_long="drop")
    data.prompter = prompter
    with pytest.raises(UserError, match=f"^{path}: no row is left to train on"):
        data.setup()


def test_too_few_rows_for_a_batch_names_the_file(write: Any, prompter: Prompter):
    path = write({"prompt": "a"}, {"prompt": "b"})
    data = PromptDataModule(path, validation_share=0, batch_size=4)
    data.prompter = prompter
    data.setup()
    with pytest.raises(UserError, match=f"^{path}: 2 rows are too few for a batch, which needs 4; add rows or lower"):
        data.train_dataloader()


def test_a_prompt_that_cannot_be_rendered_names_the_row(write: Any, prompter: Prompter):
    path = write({"prompt": "a"}, {"prompt": [{"role": "user", "content": "b"}]})
    data = PromptDataModule(path, validation_share=0)
    data.prompter = Prompter(tiny_tokenizer(), "raw")
    with pytest.raises(UserError, match=f"^{path}:2: prompt: messages need a chat template"):
        data.setup()


REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE


@pytest.mark.parametrize("many", [0, 1500])
def test_a_row_that_the_template_refuses_is_a_bad_row(write: Any, many: int):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = REFUSING
    bad = {"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "b"}]}
    path = write({"prompt": "a"}, bad, {"prompt": "c"}, *({"prompt": f"d {n}"} for n in range(many)))
    data = PromptDataModule(path, validation_share=0, on_bad_row="skip")
    data.prompter = Prompter(tokenizer)
    data.setup()
    assert [row.prompt for row in data.train_rows][:2] == ["a", "c"]
    counts = data.report.sources["path"]
    assert (counts["read"], counts["bad"], counts["kept"]) == (2 + many, 1, 2 + many)
    assert counts["first_bad"].startswith(
        f"{path}:2: prompt: the model's chat template refuses these messages (no system)"
    )
    stopping = PromptDataModule(path, validation_share=0)
    stopping.prompter = data.prompter
    with pytest.raises(UserError, match=f"^{path}:2: prompt: .*no system"):
        stopping.setup()
    none = PromptDataModule(write(bad, bad), validation_share=0, on_bad_row="skip")
    none.prompter = data.prompter
    with pytest.raises(UserError, match=r"no row is left to train on \(2 bad, the first .*:1: prompt: .*no system"):
        none.setup()


class Reader(lightning.LightningModule):
    """Takes part in a fit, and owns the prompter as the stages do."""

    def __init__(self, prompter: Prompter) -> None:
        super().__init__()
        self.prompter = prompter
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.row_number.tolist())
        return self.weight**2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/rows", float(len(batch.rows)), batch_size=1, reduce_fx="sum")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("share", "validated"), [(0.0, False), (0.5, True)])
def test_trainer_brings_the_prompter(tmp_path, write: Any, prompter: Prompter, share: float, validated: bool):
    data = PromptDataModule(write(*({"prompt": letter} for letter in "abcdefgh")), validation_share=share, batch_size=2)
    model = Reader(prompter)
    trainer = lightning.Trainer(
        default_root_dir=tmp_path,
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, datamodule=data)
    assert data.prompter is prompter
    assert len(model.seen) == len(data.train_rows) // 2
    assert ("val/rows" in trainer.callback_metrics) == validated
