"""Ranked comparisons -> batches for the reward model (step 2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info

from data_modules.base import Item, OnLong, RowDataModule, to_dataset
from data_modules.rows import Demonstration, RankedComparison, read_rows
from lit_instruct.batches import RankedBatch, right_pad

SEQUENCES_PER_PROMPT = 8
"""Demonstrations are scored in batches of `batch_size` times this, about the size of a training batch."""


class RankedComparisonDataModule(RowDataModule[RankedComparison]):
    """K ranked responses to each prompt (section 3.4); all K of a prompt are in the same batch.

    After `setup`, the items of `train_dataset` and `validation_dataset` hold `sequences` (K lists of prompt
    and response ids, each ending in EOS), `ranks` (1 is the best) and, for TRL's RewardTrainer, the best
    and the worst of them as `chosen_ids` and `rejected_ids`. Rows whose responses are all tied say nothing
    and are dropped.

    Args:
        path: Training file, .jsonl or .json.
        validation_path: Validation file; without it, a share of the training file is set aside.
        validation_share: Share of the prompts set aside where there is no validation file; 0 sets none aside.
        demonstrations_path: Demonstrations that score 0 on average once the bias is set, after training.
        max_length: Most tokens of prompt and response together.
        on_long: What to do with a longer row: stop with an error, or drop it with all its responses.
        batch_size: Prompts per batch and process; each brings its K responses.
        seed: Determines the order of the prompts.
        limit: Use only the first rows of the training file.
    """

    row_type = RankedComparison

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
        self.demonstrations_path = demonstrations_path
        self._demonstrations: list[Item] = []

    def setup(self, stage: str | None = None) -> None:
        """Reads and tokenises comparisons and demonstrations, once."""
        if self.train_dataset is None and self.demonstrations_path is not None:
            self._demonstrations = self._read_demonstrations(self.demonstrations_path)
        super().setup(stage)

    def read(self) -> tuple[list[RankedComparison], list[RankedComparison]]:
        """Rows for training and for validation, without those that are all ties."""
        train, validation = super().read()
        return self._without_ties(train), self._without_ties(validation)

    def encode(self, row: RankedComparison) -> Item:
        """ids of the K sequences, their ranks, and the best and the worst sequence."""
        sequences = [self._sequence(row.prompt, response) for response in row.responses]
        best, worst = row.ranks.index(min(row.ranks)), row.ranks.index(max(row.ranks))
        return {
            "sequences": sequences,
            "ranks": row.ranks,
            "chosen_ids": sequences[best],
            "rejected_ids": sequences[worst],
        }

    def item_length(self, item: Item) -> int:
        """Tokens of the longest sequence."""
        return max(len(sequence) for sequence in item["sequences"])

    def as_dataset(self, items: list[Item]) -> Any:
        """A `datasets.Dataset`, which TRL takes."""
        return to_dataset(items)

    def collate(self, items: list[Item]) -> RankedBatch:
        """All sequences of all prompts of the batch, padded on the right."""
        sequences = [sequence for item in items for sequence in item["sequences"]]
        input_ids, mask = right_pad(sequences, self.get_prompter().pad_id)
        ranks = torch.tensor([rank for item in items for rank in item["ranks"]])
        prompt_index = torch.tensor([i for i, item in enumerate(items) for _ in item["ranks"]])
        return RankedBatch(input_ids, mask, ranks, prompt_index)

    def demonstration_batches(self) -> Iterator[RankedBatch]:
        """All demonstrations, the same on every process; none without `demonstrations_path`.

        Each is a prompt of its own with one response of rank 1.
        """
        size = self.batch_size * SEQUENCES_PER_PROMPT
        for start in range(0, len(self._demonstrations), size):
            yield self.collate(self._demonstrations[start : start + size])

    def _sequence(self, prompt: Any, response: str) -> list[int]:
        prompter = self.get_prompter()
        return prompter.prompt_ids(prompt) + prompter.response_ids(response)

    def _read_demonstrations(self, path: str) -> list[Item]:
        def encode(row: Demonstration) -> Item:
            return {"sequences": [self._sequence(row.prompt, row.response)], "ranks": [1]}

        return self.encode_rows(read_rows(path, Demonstration), encode)[1]

    @staticmethod
    def _without_ties(rows: list[RankedComparison]) -> list[RankedComparison]:
        kept = [row for row in rows if len(set(row.ranks)) > 1]
        if len(kept) < len(rows):
            path = rows[0].where.rpartition(":")[0]
            rank_zero_info(f"{path}: dropped {len(rows) - len(kept)} of {len(rows)} rows whose responses are all tied.")
        return kept
