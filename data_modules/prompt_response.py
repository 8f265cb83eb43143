"""Demonstrations -> batches for supervised fine-tuning (step 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from data_modules.base import Item, OnLong, RowDataModule, check_option, to_dataset
from data_modules.rows import Demonstration
from lit_instruct.batches import right_pad

IGNORED = -100
"""Label of a token that the loss leaves out."""


class PromptResponseDataModule(RowDataModule[Demonstration]):
    """Prompts with the responses that labelers wrote for them (section 3.2), as ids and labels.

    After `setup`, `train_dataset` and `validation_dataset` (None without validation rows) are
    `datasets.Dataset`s with the columns input_ids and labels.

    Args:
        path: Training file, .jsonl or .json.
        validation_path: Validation file; without it, a share of the training file is set aside.
        validation_share: Share of the prompts set aside where there is no validation file; 0 sets none aside.
        max_length: Most tokens of prompt and response together.
        on_long: What to do with a longer row: stop with an error, or drop it.
        batch_size: Rows per batch and process.
        loss_on: Train on the responses only, or on all tokens.
        seed: Determines the order of the rows.
        limit: Use only the first rows of the training file.
    """

    row_type = Demonstration

    def __init__(
        self,
        path: str,
        validation_path: str | None = None,
        validation_share: float = 0.1,
        max_length: int = 512,
        on_long: OnLong = "error",
        batch_size: int = 8,
        loss_on: Literal["responses", "all"] = "responses",
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(
            path,
            validation_path,
            validation_share,
            "max_length",
            max_length,
            on_long,
            batch_size,
            seed,
            limit,
        )
        self.max_length = max_length
        check_option("loss_on", loss_on, loss_on in ("responses", "all"), "responses or all")
        self.loss_on = loss_on
        self._collate: Callable[[list[Item]], Any] = self.pad

    def use(self, train_dataset: Any, validation_dataset: Any, collate: Callable[[list[Item]], Any]) -> None:
        """Serves these datasets through this collate function from now on (TRL packs and collates them)."""
        self.train_dataset, self.validation_dataset, self._collate = (
            train_dataset,
            validation_dataset,
            collate,
        )

    def encode(self, row: Demonstration) -> Item:
        """ids of prompt and response, and labels: -100 where the loss looks away."""
        prompter = self.get_prompter()
        prompt, response = prompter.prompt_ids(row.prompt), prompter.response_ids(row.response)
        prompt_labels = prompt if self.loss_on == "all" else [IGNORED] * len(prompt)
        return {"input_ids": prompt + response, "labels": prompt_labels + response}

    def item_length(self, item: Item) -> int:
        """Tokens of prompt and response."""
        return len(item["input_ids"])

    def as_dataset(self, items: list[Item]) -> Any:
        """A `datasets.Dataset`, which TRL takes."""
        return to_dataset(items)

    def collate(self, items: list[Item]) -> Any:
        """Batch by the function given to `use`, or else padded."""
        return self._collate(items)

    def pad(self, items: list[Item]) -> dict[str, Tensor]:
        """Pads on the right: input_ids (B, T), attention_mask (B, T) with 1 on real tokens, labels (B, T)."""
        input_ids, mask = right_pad([item["input_ids"] for item in items], self.get_prompter().pad_id)
        labels, _ = right_pad([item["labels"] for item in items], IGNORED)
        return {"input_ids": input_ids, "attention_mask": mask.long(), "labels": labels}
