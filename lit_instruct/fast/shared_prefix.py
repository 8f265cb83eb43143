"""Sequences that begin alike as one row: the beginning once, the rest of each as a branch of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_instruct.batches import right_pad

TRUNK, PADDING = 0, -1
"""Values of `PackedRows.branch` beside the branches' own numbers, which start at 1."""
MaskRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(row, head, query, key) -> whether the query token sees the key token, as flex_attention asks it."""


class PackedRows(NamedTuple):
    """B rows of one or several sequences each."""

    input_ids: Tensor
    """(B, T) long, padded on the right."""
    position_ids: Tensor
    """(B, T) long, the position that a token has in its own sequence."""
    branch: Tensor
    """(B, T) long, 0 on a row's trunk (the tokens its sequences begin with), 1, 2, ... on its branches, -1 on padding;
    a row of one sequence is trunk alone."""
    last: Tensor
    """(N,) long, where the last token of each sequence is in the flattened rows, in the order the sequences came in."""

    @property
    def branched(self) -> bool:
        """Whether any row has branches."""
        return len(self.last) > len(self.input_ids)

    def to(self, device: torch.device) -> PackedRows:
        """Returns the rows on a device."""
        return PackedRows(*(part.to(device) for part in self))


def shared_length(sequences: Sequence[list[int]]) -> int:
    """Returns how many tokens all sequences begin with, so counted that each has at least one token of its own."""
    # Whatever all of them share, the first and the last in lexical order share, and these two share nothing more.
    first, last = min(sequences), max(sequences)
    limit = min(len(sequence) for sequence in sequences) - 1
    return next((at for at in range(limit) if first[at] != last[at]), limit)


def packed_length(sequences: Sequence[list[int]]) -> int:
    """Returns the tokens of a row that packs these sequences."""
    shared = shared_length(sequences) if len(sequences) > 1 else 0
    return shared + sum(len(sequence) - shared for sequence in sequences)


def pack(rows: Sequence[Sequence[list[int]]]) -> PackedRows:
    """Packs the sequences of each row into one.

    Args:
        rows: the token ids of the sequences of each row, none of them empty.
    """
    packed = [_pack_row(sequences) for sequences in rows]
    input_ids, _ = right_pad([ids for ids, _, _, _ in packed], 0)
    position_ids, _ = right_pad([positions for _, positions, _, _ in packed], 0)
    branch, _ = right_pad([branch for _, _, branch, _ in packed], PADDING)
    width = input_ids.shape[1]
    last = [row * width + end for row, (_, _, _, ends) in enumerate(packed) for end in ends]
    return PackedRows(input_ids, position_ids, branch, torch.tensor(last))


def _pack_row(sequences: Sequence[list[int]]) -> tuple[list[int], list[int], list[int], list[int]]:
    """ids, positions and branch numbers of one row, and the column of each sequence's last token."""
    shared = shared_length(sequences) if len(sequences) > 1 else len(sequences[0])
    ids, positions, branch, ends = sequences[0][:shared], list(range(shared)), [TRUNK] * shared, []
    for number, sequence in enumerate(sequences, start=1):
        ids = ids + sequence[shared:]
        positions.extend(range(shared, len(sequence)))
        branch.extend([number] * (len(sequence) - shared))
        ends.append(len(ids) - 1)
    return ids, positions, branch, ends


def mask_rule(branch: Tensor) -> MaskRule:
    """Returns the rule by which a token sees, of what stands before it in the row, the trunk and its own branch.

    Args:
        branch: (B, T) of `PackedRows`.
    """

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        of_key = branch[row, key]
        return (query >= key) & ((of_key == TRUNK) | (of_key == branch[row, query]))

    return sees


def dense_mask(branch: Tensor) -> Tensor:
    """Returns `mask_rule` for all pairs of tokens: (B, T) -> (B, 1, T, T) bool, True where the query sees the key."""
    rows, width = branch.shape
    row = torch.arange(rows, device=branch.device)[:, None, None]
    column = torch.arange(width, device=branch.device)
    return mask_rule(branch)(row, row, column[:, None], column[None, :])[:, None]


def block_mask(branch: Tensor) -> Any:
    """Returns `mask_rule` as flex_attention's BlockMask, which skips the blocks in which nothing is seen."""
    from torch.nn.attention.flex_attention import create_block_mask

    rows, width = branch.shape
    compiled = branch.device.type == "cuda"  # without it, a dense mask is made on the way
    return create_block_mask(mask_rule(branch), rows, None, width, width, branch.device, _compile=compiled)
