"""A plain text -> blocks of token ids for the pretraining mix of PPO-ptx."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from data_modules.rows import read_text
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter


class PretrainingText:
    """A text cut into blocks of equal length, served in a shuffled cycle (section 3.5, D_pretrain).

    Args:
        path: text file in UTF-8.
        prompter: owner of the tokenizer; the text is tokenised without template and special tokens.
        block: tokens per block; what is left at the end of the text is not used.
        seed: determines the order of the blocks.

    Raises:
        UserError: the file is missing or shorter than one block.
    """

    def __init__(self, path: str | Path, prompter: Prompter, block: int = 128, seed: int = 0) -> None:
        ids = prompter.tokenizer(read_text(path), add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        if len(ids) < block:
            raise UserError(
                f"{path}: the text has {len(ids)} tokens, fewer than one block of {block}; "
                "use a longer text or lower --data.pretraining_block"
            )
        count = len(ids) // block
        self.blocks = torch.tensor(ids[: count * block]).view(count, block)
        """(number of blocks, block) long."""
        self.seed = seed

    def batch(self, iteration: int, count: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Blocks of one iteration: a pure function of (seed, iteration), so that resuming needs no state.

        Iteration i takes the i-th piece of `count * world_size` blocks from an endless sequence of shuffled
        passes over the text, and each process takes its consecutive share of that.

        Args:
            iteration: from 0.
            count: blocks per process.
            rank: this process.
            world_size: number of processes.

        Returns:
            (count, block) long.
        """
        first = (iteration * world_size + rank) * count
        cycle, place = divmod(first, len(self.blocks))
        order = self._order(cycle)[place:]
        while len(order) < count:
            cycle += 1
            order = torch.cat([order, self._order(cycle)])
        return self.blocks[order[:count]]

    def _order(self, cycle: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + cycle) % 2**63)
        return torch.randperm(len(self.blocks), generator=generator)
