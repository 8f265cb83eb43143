"""Demonstrations -> batches for supervised fine-tuning (step 1)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, Literal

import pyarrow.compute as pc
from torch import Tensor

from data_modules.base import RowDataModule, check_option
from data_modules.reading.bad_rows import OnBadRow
from data_modules.rows import Demonstration, OnLong
from data_modules.tables.arrow import Item
from lit_instruct.batches import IGNORED, right_pad


class PromptResponseDataModule(RowDataModule[Demonstration]):
    """Prompts with responses written by labelers (section 3.2), as ids and labels.

    After `setup`, `train_dataset` and `validation_dataset` (None without validation rows) are
    `datasets.Dataset`s with the columns input_ids and labels.

    Args:
        path: Training rows: a file (.jsonl, .json, .csv, .parquet), a folder of those or one of
            its splits (folder:test), a hub id with its split (org/name:train), or several with weights
            (a.jsonl@3,b.jsonl@1).
        validation_path: Validation rows; without it, a share of the training rows is split off.
        validation_share: Share of the prompts split off if there is no validation file; 0 splits off none.
        max_length: Most tokens of prompt and response together.
        on_long: What to do with a longer row: stop with an error, or drop it.
        batch_size: Rows per batch and process.
        loss_on: Train on every assistant turn of a conversation, on the last one only, or on all tokens.
        seed: Determines the order of the rows.
        limit: Use only this many training rows, from the start.
        format: Layout of the rows; auto detects it from the first rows.
        on_bad_row: Stop with an error at a bad row, or skip bad rows, count them and write them to a file.
        fields: Field of the layout -> its name in the file, such as {prompt: question, response: answer}.
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
        loss_on: Literal["responses", "last_response", "all"] = "responses",
        seed: int = 0,
        limit: int | None = None,
        format: str = "auto",
        on_bad_row: OnBadRow = "error",
        fields: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            path,
            validation_path,
            validation_share,
            max_length,
            on_long,
            batch_size,
            seed,
            limit,
            format,
            on_bad_row,
            fields,
        )
        self.max_length = max_length
        possible = loss_on in ("responses", "last_response", "all")
        check_option("loss_on", loss_on, possible, "responses, last_response or all")
        self.loss_on = loss_on
        self._collate: Callable[[list[Item]], Any] = self.pad

    def use(self, train_dataset: Any, validation_dataset: Any, collate: Callable[[list[Item]], Any]) -> None:
        """Replaces the datasets and the collate function by those of TRL, which packs and collates."""
        self.train_dataset, self.validation_dataset, self._collate = train_dataset, validation_dataset, collate

    def encode_batch(self, rows: list[Demonstration]) -> list[Item]:
        """Token ids of prompt and response, and labels: -100 where the loss ignores them."""
        prompter = self.get_prompter()
        by_turns = [self.loss_on == "responses" and _has_earlier_response(row) for row in rows]
        others = [row for row, separate in zip(rows, by_turns, strict=True) if not separate]
        prompts = iter(prompter.prompts_ids([row.prompt for row in others]))
        responses = iter(prompter.responses_ids([row.response for row in others]))
        return [
            _item(prompter.turn_ids(row.prompt, row.response))
            if separate
            else _item([(next(prompts), self.loss_on == "all"), (next(responses), True)])
            for row, separate in zip(rows, by_turns, strict=True)
        ]

    def item_length(self, item: Item) -> int:
        """Tokens of prompt and response."""
        return len(item["input_ids"])

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        datasets = [self.train_dataset, self.validation_dataset]
        columns = [dataset.data.column("input_ids") for dataset in datasets if dataset is not None]
        return max(pc.max(pc.list_value_length(column)).as_py() for column in columns)

    def collate(self, items: list[Item]) -> Any:
        """Makes a batch with the function given to `use`, or else by padding."""
        return self._collate(items)

    def pad(self, items: list[Item]) -> dict[str, Tensor]:
        """Pads on the right: input_ids (B, T), attention_mask (B, T) with 1 on real tokens, labels (B, T)."""
        input_ids, mask = right_pad([item["input_ids"] for item in items], self.get_prompter().pad_id)
        labels, _ = right_pad([item["labels"] for item in items], IGNORED)
        return {"input_ids": input_ids, "attention_mask": mask.long(), "labels": labels}


def _has_earlier_response(row: Demonstration) -> bool:
    return not isinstance(row.prompt, str) and any(message["role"] == "assistant" for message in row.prompt)


def _item(pieces: list[tuple[list[int], bool]]) -> Item:
    """Joins runs of token ids, each with whether it is trained on, into an item."""
    labels = [ids if trained else [IGNORED] * len(ids) for ids, trained in pieces]
    return {"input_ids": list(chain(*(ids for ids, _ in pieces))), "labels": list(chain(*labels))}
