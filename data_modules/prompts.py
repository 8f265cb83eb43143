"""Prompts without responses -> batches for PPO (step 3), and the text of its pretraining mix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import torch
from lightning.pytorch.utilities import rank_zero_info

from data_modules.base import RowDataModule, check_option
from data_modules.batching.pretraining import PretrainingText
from data_modules.hygiene.facts import PromptFacts
from data_modules.hygiene.steps import HygieneOptions
from data_modules.reading.bad_rows import OnBadRow
from data_modules.rows import OnLong, PromptRow
from data_modules.tables.arrow import Item, LazyRows
from lit_instruct.batches import PromptBatch, left_pad


class PromptDataModule(RowDataModule[PromptRow]):
    """Prompts of users (section 3.2), as left-padded ids.

    A batch's `row_number` is an index into `train_rows`, in validation into `validation_rows`.

    Args:
        path: Training rows: a file (.jsonl, .json, .csv, .tsv, .parquet, .txt), a folder of those or one of
            its splits (folder:test), a hub id with its split (org/name:train), or several with weights
            (a.jsonl@3,b.jsonl@1).
        validation_path: Validation rows; without it, a share of the training rows is split off.
        validation_share: Share of the prompts split off if there is no validation file; 0 splits off none.
        validation_limit: Use only this many validation prompts, from the start.
        max_prompt_length: Most tokens of a prompt, template included.
        on_long: What to do with a longer prompt: stop with an error, or drop it.
        batch_size: Prompts per PPO iteration, over all processes together.
        pretraining_path: Text for the pretraining mix (PPO-ptx).
        pretraining_block: Tokens per block of that text.
        seed: Determines the order of the prompts and of the pretraining text.
        limit: Use only this many training rows, from the start.
        format: Layout of the rows; auto detects it from the first rows.
        on_bad_row: Stop with an error at a bad row, or skip bad rows, count them and write them to a file.
        hygiene: Which prompts are left out.
        fields: Field of the layout -> its name in the file, such as {prompt: question}.
    """

    row_type = PromptRow
    limit_option = "max_prompt_length"
    drop_last = True
    not_in_items = RowDataModule.not_in_items | {"pretraining_path", "pretraining_block"}
    ids_column: str | None = None
    """Column of the training and validation rows with the token ids of their prompts; None tokenises the prompts."""

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
        format: str = "auto",
        on_bad_row: OnBadRow = "error",
        hygiene: HygieneOptions = HygieneOptions(),
        fields: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            path,
            validation_path,
            validation_share,
            max_prompt_length,
            on_long,
            batch_size,
            seed,
            limit,
            format,
            on_bad_row,
            fields,
        )
        possible = validation_limit is None or validation_limit >= 1
        check_option("validation_limit", validation_limit, possible, "at least 1")
        check_option("pretraining_block", pretraining_block, pretraining_block >= 2, "at least 2")
        self.max_prompt_length = max_prompt_length
        self.validation_limit = validation_limit
        self.pretraining_path = pretraining_path
        self.pretraining_block = pretraining_block
        self.hygiene = hygiene
        self.pretraining: PretrainingText | None = None

    def setup(self, stage: str | None = None) -> None:
        """Reads and tokenises prompts and pretraining text, once."""
        if self.pretraining is None and self.pretraining_path is not None:
            prompter = self.get_prompter()
            self.pretraining = PretrainingText(
                self.pretraining_path, prompter, self.pretraining_block, self.seed, self.on_bad_row
            )
        super().setup(stage)

    def encode_batch(self, rows: list[PromptRow]) -> list[Item]:
        """Token ids of each prompt."""
        if self.ids_column is not None:
            return [{"ids": row.extra[self.ids_column]} for row in rows]
        return [{"ids": ids} for ids in self.get_prompter().prompts_ids([row.prompt for row in rows])]

    def item_length(self, item: Item) -> int:
        """Number of tokens of the prompt."""
        return len(item["ids"])

    def facts(self) -> PromptFacts:
        """Chooses among the prompts by the steps of hygiene."""
        return PromptFacts(self.hygiene, self.get_prompter())

    def draws(self) -> bool:
        """Whether sources are mixed or use cases resampled."""
        return self.hygiene.use_case_mix is not None or super().draws()

    def as_dataset(self, items: Any, rows: LazyRows[PromptRow]) -> Any:
        """The prompts, numbered."""
        return _Prompts(items, rows)

    def tell(self) -> None:
        """Also logs what hygiene removed, and the mix of use cases."""
        super().tell()
        text = self.pretraining
        if text is not None and text.bad:
            place = self._set_aside(text.bad_rows)
            rank_zero_info(f"{self.pretraining_path}: {text.bad} bad rows skipped{place}; the first: {text.first_bad}")
        if any(self.report.removed.values()):
            what = ", ".join(f"{reason} {count}" for reason, count in self.report.removed.items() if count)
            rank_zero_info(f"{self.path}: prompts removed by --data.hygiene: {what}.")
        if self.report.use_cases:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in self.report.use_cases.items())
            rank_zero_info(f"{self.path}: use cases of the training prompts: {shares}.")

    def collate(self, items: list[Item]) -> PromptBatch:
        """Pads the prompts on the left."""
        ids, mask = left_pad([item["ids"] for item in items], self.get_prompter().pad_id)
        numbers = torch.tensor([item["index"] for item in items])
        return PromptBatch(ids, mask, numbers, [item["row"] for item in items])

    @property
    def longest(self) -> int:
        """Number of tokens of the longest prompt."""
        return max(data.longest for data in (self.train_dataset, self.validation_dataset) if data is not None)

    def process_batch_size(self) -> int:
        """Prompts of an iteration on one process."""
        possible = self.batch_size % self.world_size == 0
        check_option("batch_size", self.batch_size, possible, f"a multiple of the {self.world_size} processes")
        return self.batch_size // self.world_size


@dataclass
class _Prompts:
    """Prompts in a file: ids, index and row of each."""

    items: Any
    """`datasets.Dataset` with the column ids."""
    rows: LazyRows[PromptRow]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest prompt."""
        return int(pc.max(pc.list_value_length(self.items.data.column("ids"))).as_py())

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Item]:
        """All items of a batch at once; DataLoader prefers this method."""
        found = zip(indices, self.items[indices]["ids"], self.rows.take(indices), strict=True)
        return [{"index": index, "ids": ids, "row": row} for index, ids, row in found]
