"""Plain text or rows of {text} -> blocks of token ids for the pretraining mix of PPO-ptx."""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_modules.reading.bad_rows import BadRows, OnBadRow
from data_modules.reading.sources import has_weights
from data_modules.reading.texts import stream_documents
from data_modules.tables.cache import find_or_build
from data_modules.tables.fingerprints import code_version, content_of
from lit_instruct.errors import DataError
from lit_instruct.prompting import Prompter

IDS, BAD_ROWS = "ids.int32", "pretraining_path.bad.jsonl"
ROUNDS = 8
"""Rounds of the shuffle; with four, short texts are visibly not shuffled evenly."""


class PretrainingText:
    """A text packed into blocks of equal length, served in shuffled passes (section 3.5, D_pretrain).

    One pass tokenises the text into a cache file (4 bytes per token), which later runs reuse. Memory does not grow with
    the text.

    Args:
        path: plain text or rows {text}: a file, a folder, a hub id with its split, or several with weights.
        prompter: holds the tokenizer; the text is tokenised without template and special tokens, with the
            tokenizer's EOS between documents.
        block: tokens per block; the remainder at the end of the text is not used.
        seed: determines the order of the blocks, and how sources with weights are mixed.
        on_bad_row: "error" stops at a row without a usable text, "skip" writes it to the file `bad_rows`.

    Raises:
        DataError: a file is missing or damaged, or the text is shorter than one block.
    """

    def __init__(
        self, path: str | Path, prompter: Prompter, block: int = 128, seed: int = 0, on_bad_row: OnBadRow = "error"
    ) -> None:
        content = content_of(str(path), plain_text=True)
        mixed_by = seed if has_weights(path) else None
        key = ["pretraining", content, mixed_by, on_bad_row, prompter.fingerprint(), code_version()]
        self._built = find_or_build(
            None if content is None else key, lambda folder: _write_ids(folder, path, prompter, seed, on_bad_row)
        )
        folder, record, _ = self._built
        self.bad, self.first_bad = int(record["bad"]), record["first_bad"]
        """Number of skipped rows, and what is wrong with the first."""
        self.bad_rows = folder / BAD_ROWS
        """The file of skipped rows; it exists only if there are any."""
        if record["tokens"] < block:
            raise DataError(
                f"{path}: the text has {record['tokens']} tokens, fewer than one block of {block}; "
                "use a longer text or lower --data.pretraining_block"
            )
        self.seed = seed
        count = record["tokens"] // block
        self.blocks = torch.from_file(str(folder / IDS), size=count * block, dtype=torch.int32).view(count, block)
        """(number of blocks, block) int32, in the order of the text, memory-mapped."""

    def batch(self, iteration: int, count: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Returns the blocks of one iteration: a pure function of (seed, iteration), so resuming needs no state.

        Iteration i takes the i-th run of `count * world_size` blocks from an endless sequence of shuffled passes over
        the text; each process takes its consecutive shard of them.

        Args:
            iteration: from 0.
            count: blocks per process.
            rank: this process.
            world_size: number of processes.

        Returns:
            (count, block) long.
        """
        first = (iteration * world_size + rank) * count
        return self.blocks[[self._block_at(place) for place in range(first, first + count)]].long()

    def _block_at(self, place: int) -> int:
        cycle, within = divmod(place, len(self.blocks))
        return shuffled(within, len(self.blocks), f"{self.seed}:{cycle}")


def shuffled(index: int, length: int, key: str) -> int:
    """Returns where a shuffle of range(length) puts `index`, without computing the whole shuffle.

    A Feistel network permutes all numbers of an even number of bits. It is applied until the result is below `length`
    ("cycle walking"), which makes it a permutation of range(length).

    Args:
        index: in [0, length).
        length: at least 1.
        key: selects the shuffle.
    """
    bits = max(1, (length - 1).bit_length() + 1) // 2 or 1
    while True:
        left, right = index >> bits, index & ((1 << bits) - 1)
        for turn in range(ROUNDS):
            digest = hashlib.blake2b(f"{key}:{turn}:{right}".encode(), digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest, "big") & ((1 << bits) - 1))
        index = left << bits | right
        if index < length:
            return index


def _write_ids(folder: Path, path: str | Path, prompter: Prompter, seed: int, on_bad_row: OnBadRow) -> dict[str, Any]:
    """Writes the token ids of the text to a file, chunk by chunk, and returns their number and that of bad rows."""
    tokenizer = prompter.tokenizer
    end = prompter.eos_id if tokenizer.eos_token_id is None else int(tokenizer.eos_token_id)
    tokens = 0
    with BadRows(folder / BAD_ROWS) as bad, (folder / IDS).open("wb") as stream:
        documents = stream_documents(path, bad if on_bad_row == "skip" else None, seed)
        for number, document in enumerate(documents):
            if number:
                array("i", [end]).tofile(stream)
                tokens += 1
            for piece in document:
                (ids,) = prompter.texts_ids([piece], split_special_tokens=True)
                array("i", ids).tofile(stream)
                tokens += len(ids)
    return {"tokens": tokens, "bad": bad.count, "first_bad": None if bad.first is None else str(bad.first)}
