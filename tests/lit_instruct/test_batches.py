"""Padding and the rollout tuple."""

from __future__ import annotations

import torch

from lit_instruct.batches import Rollout, left_pad, right_pad

SEQUENCES = [[5, 6, 7], [8], [9, 9]]


def test_right_pad() -> None:
    ids, mask = right_pad(SEQUENCES, 1)
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1], [9, 9, 1]]
    assert mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert (ids.dtype, mask.dtype) == (torch.long, torch.bool)


def test_left_pad() -> None:
    ids, mask = left_pad(SEQUENCES, 1)
    assert ids.tolist() == [[5, 6, 7], [1, 1, 8], [1, 9, 9]]
    assert mask.tolist() == [[True, True, True], [False, False, True], [False, True, True]]


def test_a_token_equal_to_the_padding_is_real() -> None:
    for pad in (left_pad, right_pad):
        assert pad([[0, 0], [0]], 0)[1].sum(dim=1).tolist() == [2, 1]


def test_response_length_counts_real_tokens() -> None:
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    fields = dict.fromkeys(Rollout._fields, torch.zeros(3)) | {"response_mask": mask}
    assert Rollout(**fields).response_length.tolist() == [2, 1, 2]
