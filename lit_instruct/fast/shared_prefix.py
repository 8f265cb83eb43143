"""Sequences with a common prefix packed into one row: the prefix once, then the suffix of each sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_instruct.batches import right_pad

PREFIX, PADDING = 0, -1
"""Values of `PackedRows.segment`; the suffixes are numbered from 1."""
MaskRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(row, head, query, key) -> whether the query token sees the key token: a mask_mod of flex_attention."""


class PackedRows(NamedTuple):
    """B rows of one or several sequences each."""

    input_ids: Tensor
    """(B, T) long, padded on the right."""
    position_ids: Tensor
    """(B, T) long, the position that a token has in its own sequence."""
    segment: Tensor
    """(B, T) long, 0 on a row's prefix (the tokens that all its sequences begin with), 1, 2, ... on its suffixes, -1 on
    padding; a row of one sequence is all prefix."""
    last: Tensor
    """(N,) long, index of each sequence's last token in the flattened rows, in the order of the sequences."""

    @property
    def shares_prefix(self) -> bool:
        """Whether any row has suffixes."""
        return len(self.last) > len(self.input_ids)

    def to(self, device: torch.device) -> PackedRows:
        """Returns the rows on a device, without waiting for the work queued there."""
        return PackedRows(*(part.to(device, non_blocking=True) for part in self))


def prefix_length(sequences: Sequence[list[int]]) -> int:
    """Returns the length of the common prefix, shortened where needed so that each suffix has at least one token."""
    # The common prefix of all is that of the lexicographically first and last.
    first, last = min(sequences), max(sequences)
    limit = min(len(sequence) for sequence in sequences) - 1
    return next((at for at in range(limit) if first[at] != last[at]), limit)


def packed_length(sequences: Sequence[list[int]]) -> int:
    """Returns the number of tokens of a row that packs these sequences."""
    prefix = prefix_length(sequences) if len(sequences) > 1 else 0
    return prefix + sum(len(sequence) - prefix for sequence in sequences)


def pack(rows: Sequence[Sequence[list[int]]]) -> PackedRows:
    """Packs the sequences of each row into one: `rows[b]` holds the token ids of its sequences, none of them empty."""
    packed = [_pack_row(sequences) for sequences in rows]
    input_ids, _ = right_pad([ids for ids, _, _, _ in packed], 0)
    position_ids, _ = right_pad([positions for _, positions, _, _ in packed], 0)
    segment, _ = right_pad([segment for _, _, segment, _ in packed], PADDING)
    width = input_ids.shape[1]
    last = [row * width + end for row, (_, _, _, ends) in enumerate(packed) for end in ends]
    return PackedRows(input_ids, position_ids, segment, torch.tensor(last))


def _pack_row(sequences: Sequence[list[int]]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Returns ids, positions and segments of one row, and the column of each sequence's last token."""
    prefix = prefix_length(sequences) if len(sequences) > 1 else len(sequences[0])
    ids, positions, segment, ends = sequences[0][:prefix], list(range(prefix)), [PREFIX] * prefix, []
    for number, sequence in enumerate(sequences, start=1):
        ids = ids + sequence[prefix:]
        positions.extend(range(prefix, len(sequence)))
        segment.extend([number] * (len(sequence) - prefix))
        ends.append(len(ids) - 1)
    return ids, positions, segment, ends


def mask_rule(segment: Tensor) -> MaskRule:
    """Returns the rule that a token sees itself and earlier tokens of its row, in the prefix or in its own suffix.

    Args:
        segment: (B, T) of `PackedRows`.
    """

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        of_key = segment[row, key]
        return (query >= key) & ((of_key == PREFIX) | (of_key == segment[row, query]))

    return sees


def dense_mask(segment: Tensor) -> Tensor:
    """Returns `mask_rule` for all pairs of tokens: (B, T) -> (B, 1, T, T) bool, True where the query sees the key."""
    rows, width = segment.shape
    row = torch.arange(rows, device=segment.device)[:, None, None]
    column = torch.arange(width, device=segment.device)
    return mask_rule(segment)(row, row, column[:, None], column[None, :])[:, None]


def block_mask(segment: Tensor) -> Any:
    """Returns `mask_rule` as flex_attention's BlockMask, which skips fully masked blocks."""
    from torch.nn.attention.flex_attention import create_block_mask

    rows, width = segment.shape
    compiled = segment.device.type == "cuda"  # uncompiled, it builds the dense mask first
    return create_block_mask(mask_rule(segment), rows, None, width, width, segment.device, _compile=compiled)
