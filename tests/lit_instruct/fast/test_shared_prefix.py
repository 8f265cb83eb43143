"""Packing sequences with a common prefix, against literal rows and a plain double loop."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from lit_instruct.fast.shared_prefix import block_mask, dense_mask, mask_rule, pack, packed_length, prefix_length


@pytest.mark.parametrize(
    ("sequences", "prefix"),
    [
        ([[5, 6, 7, 2], [5, 6, 8, 2]], 2),
        ([[5, 6, 7, 2], [5, 6, 7, 2]], 3),  # the same twice: each keeps its last token
        ([[5, 6, 2], [5, 6, 2, 9, 2]], 2),  # one begins the other
        ([[5, 6, 2], [4, 6, 2]], 0),
        ([[5, 6, 7, 2], [5, 6, 9, 2], [5, 8, 7, 2]], 1),
        ([[2], [2]], 0),
    ],
)
def test_prefix_length(sequences: list[list[int]], prefix: int) -> None:
    assert prefix_length(sequences) == prefix_length(sequences[::-1]) == prefix
    assert packed_length(sequences) == prefix + sum(len(sequence) - prefix for sequence in sequences)


def test_rows_of_two_and_one_and_three_sequences() -> None:
    packed = pack([[[5, 6, 7, 2], [5, 6, 2]], [[8, 9, 2]], [[4, 3], [4, 2], [4, 7, 2]]])
    assert packed.input_ids.tolist() == [[5, 6, 7, 2, 2], [8, 9, 2, 0, 0], [4, 3, 2, 7, 2]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2], [0, 1, 2, 0, 0], [0, 1, 1, 1, 2]]
    assert packed.segment.tolist() == [[0, 0, 1, 1, 2], [0, 0, 0, -1, -1], [0, 1, 2, 3, 3]]
    assert packed.last.tolist() == [3, 4, 7, 11, 12, 14]
    assert packed.shares_prefix
    assert not pack([[[8, 9, 2]], [[8, 2]]]).shares_prefix


def test_dense_mask_literal() -> None:
    (mask,) = dense_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0].int()
    assert mask.tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_masks_equal_the_double_loop_and_flex_attentions() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = []
    for size in (1, 3, 9):
        lengths = torch.randint(1, 40, (size + 1,), generator=draw).tolist()
        prefix = torch.randint(5, 9, (lengths[0],), generator=draw).tolist()
        rows.append([[*prefix, 10 + number, *[3] * length] for number, length in enumerate(lengths[1:])])
    packed = pack(rows)
    mask = dense_mask(packed.segment)
    batch, width = packed.segment.shape
    for row, numbers in enumerate(packed.segment.tolist()):
        for query in range(width):
            for key in range(width):
                sees = key <= query and numbers[key] in (0, numbers[query])
                assert bool(mask[row, 0, query, key]) == sees
    flex = create_mask(mask_rule(packed.segment), batch, None, width, width, device="cpu")
    assert torch.equal(flex, mask)
    blocks = block_mask(packed.segment)
    assert blocks.shape == (batch, 1, width, width)
    kept = blocks.to_dense().bool()  # blocks of 128 x 128 in which anything is seen
    for row in range(batch):
        for i, j in ((i, j) for i in range(kept.shape[2]) for j in range(kept.shape[3])):
            seen = mask[row, 0, i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128].any()
            assert bool(kept[row, 0, i, j]) == bool(seen)
