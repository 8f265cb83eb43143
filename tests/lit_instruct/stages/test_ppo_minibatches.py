"""How episodes are dealt into minibatches and micro-batches."""

from __future__ import annotations

import torch

from lit_instruct.stages.ppo_minibatches import cut_minibatches, minibatch_order, regroup

LENGTHS = torch.tensor([5, 3, 9, 1, 7, 2, 8, 4])


def test_every_row_once_and_similar_lengths_together() -> None:
    minibatches = cut_minibatches(LENGTHS, count=2, micro_batch_size=2, key=0, first=0, total=8)
    assert [[len(part) for part in minibatch] for minibatch in minibatches] == [[2, 2], [2, 2]]
    assert sorted(row for minibatch in minibatches for part in minibatch for row in part) == list(range(8))
    for minibatch in minibatches:
        lengths = [int(LENGTHS[row]) for part in minibatch for row in part]
        assert lengths == sorted(lengths)


def test_the_minibatch_of_a_row_does_not_depend_on_the_number_of_processes() -> None:
    one = cut_minibatches(LENGTHS, 3, 2, key=5, first=0, total=8)
    halves = [cut_minibatches(LENGTHS[at : at + 4], 3, 2, key=5, first=at, total=8) for at in (0, 4)]
    for number, minibatch in enumerate(one):
        together = {row + 4 * half for half in (0, 1) for part in halves[half][number] for row in part}
        assert together == {row for part in minibatch for row in part}


def test_another_key_deals_anew() -> None:
    dealt = [cut_minibatches(LENGTHS, 2, 8, key, 0, 8) for key in range(4)]
    assert len({str(minibatches) for minibatches in dealt}) > 1
    assert len({str(minibatch_order(6, key)) for key in range(4)}) > 1
    assert sorted(minibatch_order(6, 3)) == list(range(6))


def test_regroup_is_the_reverse_of_flattening() -> None:
    minibatches = [[[4, 1], [0]], [], [[2, 3]]]
    assert regroup(["a", "b", "c"], minibatches) == [["a", "b"], [], ["c"]]
