"""Padding and the rollout tuple."""

from __future__ import annotations

import random

import torch

from lit_instruct.batches import Rollout, columns_from, left_pad, length_batches, per_step, position_ids, right_pad

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


def test_columns_from_each_rows_own_first_one() -> None:
    values = torch.arange(8.0).view(2, 4).requires_grad_()
    found = columns_from(values, torch.tensor([0, 2]), 3)
    assert found.tolist() == [[0, 1, 2], [6, 7, 7]]  # beyond the last column, the last again
    wide = torch.stack([values, -values], dim=2)
    assert torch.equal(columns_from(wide, torch.tensor([0, 2]), 3), torch.stack([found, -found], dim=2))
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[1, 1, 1, 0], [0, 0, 1, 2]]


def test_response_ids_start_where_the_prompt_ends() -> None:
    fields = dict.fromkeys(Rollout._fields, torch.zeros(2))
    ids, _ = right_pad([[5, 6, 7], [8, 9]], 0)
    mask = torch.tensor([[True, False], [True, False]])
    parts = {"input_ids": ids, "prompt_length": torch.tensor([2, 1]), "response_mask": mask}
    assert Rollout(**(fields | parts)).response_ids[mask].tolist() == [7, 9]


def test_length_batches_by_hand() -> None:
    # Longest first; 2 x 5 fits into 10, a third would make 15; 12 is over the budget and is a batch of its own.
    assert length_batches([3, 5, 12, 5, 2, 3], tokens=10) == [[2], [1, 3], [0, 5, 4]]
    assert length_batches([3, 3], tokens=1) == [[0], [1]]
    assert length_batches([], tokens=10) == []
    assert length_batches([1, 5, 3, 5, 2], rows=2) == [[1, 3], [2, 4], [0]]
    assert length_batches([1, 5, 3, 5, 2], rows=2, tokens=5) == [[1], [3], [2], [4, 0]]


def test_length_batches_keep_the_budget_and_every_sequence() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(1, 300) for _ in range(200)]
    batches = length_batches(lengths, tokens=1024)
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 1024 for batch in batches)
    assert len(batches) < 1.3 * sum(lengths) / 1024


def test_counts_of_a_step_are_those_of_all_its_micro_batches() -> None:
    assert per_step([[0, 1], [2], [3]], [1, 10, 100, 1000], accumulate=2) == [111, 111, 1000]


def test_position_ids() -> None:
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]
