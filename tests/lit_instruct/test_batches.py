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


def test_rollout_rows_and_length() -> None:
    ids = torch.arange(12).view(3, 4)
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    numbers, scores = ids[:, 2:].float(), torch.arange(3.0)
    rollout = Rollout(ids, ids > 0, mask, numbers, numbers, numbers, scores, scores + 1, None)
    assert rollout.response_length.tolist() == [2, 1, 2]
    chosen = rollout.rows(torch.tensor([2, 0]))
    assert chosen.input_ids.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert chosen.raw_scores.tolist() == [3.0, 1.0]
    assert chosen.response_length.tolist() == [2, 2]
    assert chosen.trunk is None
    with_trunk = rollout._replace(trunk=torch.arange(3.0)[:, None, None]).rows(torch.tensor([1]))
    assert with_trunk.trunk is not None and with_trunk.trunk.tolist() == [[[1.0]]]
