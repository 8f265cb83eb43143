"""How episodes are dealt into minibatches and micro-batches."""

from __future__ import annotations

import math

import torch

from lit_instruct.batches import PromptBatch
from lit_instruct.fast.packing import ENOUGH_TOKENS
from lit_instruct.ppo.minibatches import (
    MARGIN,
    deal,
    micro_batches,
    minibatch_order,
    regroup,
    sequence_lengths,
)


def test_every_row_is_in_one_minibatch_and_another_key_deals_differently() -> None:
    dealt = [deal(8, 3, key) for key in range(4)]
    assert [len(rows) for rows in dealt[0]] == [3, 3, 2]
    assert all(sorted(row for rows in minibatches for row in rows) == list(range(8)) for minibatches in dealt)
    assert len({str(minibatches) for minibatches in dealt}) > 1
    assert len({str(minibatch_order(6, key)) for key in range(4)}) > 1
    assert sorted(minibatch_order(6, 3)) == list(range(6))


def test_lengths_are_of_prompt_and_response() -> None:
    mask = torch.tensor([[False, True, True], [True, True, True]])
    batch = PromptBatch(torch.zeros(2, 3), mask, torch.arange(2), [None, None])
    assert sequence_lengths(batch, [[1, 2, 3, 4], [1]]) == [6, 4]


def test_rows_of_one_length_come_by_the_micro_batch_size() -> None:
    assert [len(part) for part in micro_batches([3, 1, 0, 2, 4], [50] * 5, 2, "cpu")] in ([2, 2, 1], [1, 2, 2])
    assert micro_batches([], [50], 2, "cpu") == []
    assert len(micro_batches([*range(8)], [49, 50, 51, 50, 52, 48, 50, 50], 8, "cpu")) == 1  # nearly one length


def test_a_micro_batch_has_the_tokens_of_so_many_average_rows() -> None:
    """Long rows come alone, short ones together, and none is padded to the long one's width."""
    lengths = [20, 300, 22, 21, 20, 19, 18, 20]
    parts = micro_batches([0, 1, 2, 3, 4, 5, 6, 7], lengths, 3, "cpu")
    assert sorted(row for part in parts for row in part) == list(range(8))
    assert parts[-1] == [1]
    assert [len(part) for part in parts] == [7, 1]
    most = math.ceil(MARGIN * 3 * sum(lengths) / 8)
    assert all(len(part) * max(lengths[row] for row in part) <= most for part in parts[:-1])


def test_a_cpu_takes_no_more_tokens_than_make_it_faster() -> None:
    assert [len(part) for part in micro_batches([*range(8)], [300] * 8, 8, "cuda")] == [8]
    assert max(len(part) for part in micro_batches([*range(8)], [300] * 8, 8, "cpu")) == ENOUGH_TOKENS["cpu"] // 300


def test_regroup_is_the_reverse_of_flattening() -> None:
    minibatches = [[[4, 1], [0]], [], [[2, 3]]]
    assert regroup(["a", "b", "c"], minibatches) == [["a", "b"], [], ["c"]]
