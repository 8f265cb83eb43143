"""Ranked comparisons -> batches for the reward model (step 2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc
import torch

from data_modules.base import RowDataModule
from data_modules.reading.bad_rows import OnBadRow
from data_modules.rows import Demonstration, OnLong, RankedComparison
from data_modules.tables.arrow import Item, LazyRows, number_rows
from data_modules.tables.build import TableInput
from lit_instruct.batches import RankedBatch, right_pad

SEQUENCES_PER_PROMPT = 8
"""Demonstrations are scored in batches of `batch_size` times this, about the size of a training batch."""


class RankedComparisonDataModule(RowDataModule[RankedComparison]):
    """K ranked responses to each prompt (section 3.4); all K of a prompt are in the same batch.

    After `setup`, the items of `train_dataset` and `validation_dataset` hold `sequences` (K lists of prompt
    and response ids, each ending in EOS), `ranks` (1 is the best) and `margin`. Rows whose responses are all
    tied teach nothing and are dropped.

    A row's field `margin` states by how much rewards should differ: for two responses a number, as in TRL; for K
    responses a list of K numbers, where the rewards of two responses should differ by the difference of their numbers.

    Args:
        path: Training rows: a file (.jsonl, .json, .csv, .parquet), a folder of those or one of
            its splits (folder:test), a hub id with its split (org/name:train), or several with weights
            (a.jsonl@3,b.jsonl@1).
        validation_path: Validation rows; without it, a share of the training rows is split off.
        validation_share: Share of the prompts split off if there is no validation file; 0 splits off none.
        demonstrations_path: Demonstrations whose mean reward is 0 once the bias is set, after training.
        max_length: Most tokens of prompt and response together.
        on_long: What to do with a longer row: stop with an error, or drop it with all its responses.
        batch_size: Prompts per batch and process; each brings its K responses.
        seed: Determines the order of the prompts.
        limit: Use only this many training rows, from the start.
        format: Layout of the rows; auto detects it from the first rows.
        on_bad_row: Stop with an error at a bad row, or skip bad rows, count them and write them to a file.
        fields: Field of the layout -> its name in the file of `path` and `validation_path`, such as
            {chosen: better, rejected: worse}.
    """

    row_type = RankedComparison
    refused_because = "whose responses are all tied: no pair remains in them"

    def __init__(
        self,
        path: str,
        validation_path: str | None = None,
        validation_share: float = 0.1,
        demonstrations_path: str | None = None,
        max_length: int = 512,
        on_long: OnLong = "error",
        batch_size: int = 4,
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
        self.demonstrations_path = demonstrations_path

    def other_inputs(self) -> list[TableInput]:
        """The demonstrations."""
        if self.demonstrations_path is None:
            return []
        return [self.table_input("demonstrations_path", Demonstration, self._encode_demonstrations)]

    def refuse(self, row: RankedComparison) -> bool:
        """Whether all responses are tied."""
        return len(set(row.ranks)) == 1

    def encode_batch(self, rows: list[RankedComparison]) -> list[Item]:
        """ids of the K sequences, their ranks and margins."""
        prompts = self.get_prompter().prompts_ids([row.prompt for row in rows])
        responses = iter(self.get_prompter().responses_ids([text for row in rows for text in row.responses]))
        return [
            {"sequences": [prompt + next(responses) for _ in row.ranks], "ranks": row.ranks, "margin": row.margin}
            for row, prompt in zip(rows, prompts, strict=True)
        ]

    def item_length(self, item: Item) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence) for sequence in item["sequences"])

    def as_dataset(self, items: Any, rows: LazyRows[RankedComparison]) -> Any:
        """The items, numbered, as a `datasets.Dataset`."""
        return number_rows(items)

    def collate(self, items: list[Item]) -> RankedBatch:
        """All sequences of all prompts of the batch, padded on the right."""
        sequences = [sequence for item in items for sequence in item["sequences"]]
        input_ids, mask = right_pad(sequences, self.get_prompter().pad_id)
        ranks = torch.tensor([rank for item in items for rank in item["ranks"]])
        prompt_index = torch.tensor([i for i, item in enumerate(items) for _ in item["ranks"]])
        row_number = torch.tensor([item["row_number"] for item in items])
        margin = torch.tensor([margin for item in items for margin in item["margin"]])
        return RankedBatch(input_ids, mask, ranks, prompt_index, row_number, margin)

    def transfer_batch_to_device(self, batch: RankedBatch, device: torch.device, dataloader_idx: int) -> RankedBatch:
        """Leaves the batch on the host, where the reward model packs its tokens before it moves them."""
        return batch

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence of all rows."""
        datasets = [self.train_dataset, self.validation_dataset]
        columns = [dataset.data.column("sequences") for dataset in datasets if dataset is not None]
        return max(pc.max(pc.list_value_length(pc.list_flatten(column))).as_py() for column in columns)

    @property
    def longest_demonstration(self) -> int:
        """Tokens of the longest demonstration; 0 without demonstrations."""
        if self.demonstrations_path is None:
            return 0
        column = self.open_other("demonstrations_path").data.column("sequences")
        return int(pc.max(pc.list_value_length(pc.list_flatten(column))).as_py())

    def demonstration_batches(self) -> Iterator[RankedBatch]:
        """All demonstrations, the same on every process; none without `demonstrations_path`.

        Each is a prompt of its own with one response of rank 1.
        """
        if self.demonstrations_path is None:
            return
        size = self.batch_size * SEQUENCES_PER_PROMPT
        demonstrations = number_rows(self.open_other("demonstrations_path"))
        for start in range(0, len(demonstrations), size):
            yield self.collate(demonstrations.select(range(start, min(start + size, len(demonstrations)))).to_list())

    def _encode_demonstrations(self, rows: list[Demonstration]) -> list[Item]:
        prompts = self.get_prompter().prompts_ids([row.prompt for row in rows])
        responses = self.get_prompter().responses_ids([row.response for row in rows])
        pairs = zip(prompts, responses, strict=True)
        return [{"sequences": [prompt + response], "ranks": [1], "margin": [0.0]} for prompt, response in pairs]
