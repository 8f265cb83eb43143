"""Prompts alone -> batches for PPO (step 3), and the text of its pretraining mix."""

from __future__ import annotations

from typing import Any

import torch

from data_modules.base import Item, OnLong, RowDataModule, check_option
from data_modules.pretraining import PretrainingText
from data_modules.rows import PromptRow
from lit_instruct.batches import PromptBatch, left_pad


class PromptDataModule(RowDataModule[PromptRow]):
    """Prompts of users (section 3.2), as left-padded ids.

    A batch's `row_number` counts `train_rows`, in validation `validation_rows`.

    Args:
        path: Training file, .jsonl or .json.
        validation_path: Validation file; without it, a share of the training file is set aside.
        validation_share: Share of the prompts set aside where there is no validation file; 0 sets none aside.
        validation_limit: Use only the first rows of the validation prompts.
        max_prompt_length: Most tokens of a prompt, template included.
        on_long: What to do with a longer prompt: stop with an error, or drop it.
        batch_size: Prompts per PPO iteration, over all processes together.
        pretraining_path: Text for the pretraining mix (PPO-ptx).
        pretraining_block: Tokens of one piece of that text.
        seed: Determines the order of the prompts and of the pretraining text.
        limit: Use only the first rows of the training file.
    """

    row_type = PromptRow
    drop_last = True

    def __init__(
        self,
        path: str,
        validation_path: str | None = None,
        validation_share: float = 0.1,
        validation_limit: int | None = None,
        max_prompt_length: int = 512,
        on_long: OnLong = "error",
        batch_size: int = 64,
        pretraining_path: str | None = None,
        pretraining_block: int = 128,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(
            path,
            validation_path,
            validation_share,
            "max_prompt_length",
            max_prompt_length,
            on_long,
            batch_size,
            seed,
            limit,
        )
        check_option(
            "validation_limit",
            validation_limit,
            validation_limit is None or validation_limit >= 1,
            "at least 1",
        )
        check_option("pretraining_block", pretraining_block, pretraining_block >= 2, "at least 2")
        self.max_prompt_length = max_prompt_length
        self.validation_limit = validation_limit
        self.pretraining_path = pretraining_path
        self.pretraining_block = pretraining_block
        self.pretraining: PretrainingText | None = None

    def setup(self, stage: str | None = None) -> None:
        """Reads and tokenises prompts and pretraining text, once."""
        if self.pretraining is None and self.pretraining_path is not None:
            prompter = self.get_prompter()
            self.pretraining = PretrainingText(self.pretraining_path, prompter, self.pretraining_block, self.seed)
        super().setup(stage)

    def read(self) -> tuple[list[PromptRow], list[PromptRow]]:
        """Rows for training and the first `validation_limit` rows for validation."""
        train, validation = super().read()
        return train, validation[: self.validation_limit]

    def encode(self, row: PromptRow) -> Item:
        """ids of the prompt."""
        return {"ids": self.get_prompter().prompt_ids(row.prompt), "row": row}

    def item_length(self, item: Item) -> int:
        """Tokens of the prompt."""
        return len(item["ids"])

    def as_dataset(self, items: list[Item]) -> Any:
        """The items, numbered."""
        return [{"index": index, **item} for index, item in enumerate(items)]

    def collate(self, items: list[Item]) -> PromptBatch:
        """Prompts padded on the left."""
        ids, mask = left_pad([item["ids"] for item in items], self.get_prompter().pad_id)
        numbers = torch.tensor([item["index"] for item in items])
        return PromptBatch(ids, mask, numbers, [item["row"] for item in items])

    def process_batch_size(self) -> int:
        """This process's share of the prompts of an iteration."""
        possible = self.batch_size % self.world_size == 0
        check_option("batch_size", self.batch_size, possible, f"a multiple of the {self.world_size} processes")
        return self.batch_size // self.world_size
