"""A single process, and several that agree through a strategy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_instruct.errors import UserError
from lit_instruct.ppo.ranks import Ranks


def two(refused_elsewhere: bool = False) -> Ranks:
    """The first of two processes with equal values."""
    strategy: Any = SimpleNamespace(
        world_size=2,
        global_rank=0,
        root_device=torch.device("cpu"),
        reduce=lambda values, reduce_op: 2 * values,
        reduce_boolean_decision=lambda refused, all: refused or refused_elsewhere,
    )
    return Ranks(torch.nn.Linear(1, 1), strategy)


def test_without_a_strategy_there_is_one_process() -> None:
    ranks = Ranks(torch.nn.Linear(1, 1))
    assert (ranks.count, ranks.rank, ranks.sharded, ranks.gradient_scale) == (1, 0, False, 1)
    values = torch.tensor([1.0, 2.0])
    assert torch.equal(ranks.sum(values), values)
    assert ranks.agree(lambda: 3) == 3
    with ranks.no_sync():
        pass


def test_moments_are_over_all_parts_and_processes() -> None:
    parts = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 99.0]])]
    masks = [torch.tensor([[True, True]]), torch.tensor([[True, False]])]
    for ranks, times in ((Ranks(torch.nn.Linear(1, 1)), 1), (two(), 2)):
        found = ranks.masked_moments(parts, masks)
        assert [float(moment) for moment in found] == [3.0 * times, 6.0 * times, 14.0 * times]


def test_what_one_process_refuses_all_refuse() -> None:
    def refuse() -> None:
        raise UserError("the reward is wrong")

    with pytest.raises(UserError, match="the reward is wrong"):
        two().agree(refuse)
    with pytest.raises(UserError, match="another process stopped"):
        two(refused_elsewhere=True).agree(lambda: 3)


def test_gradients_are_summed_and_a_missing_one_counts_as_zero() -> None:
    one, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    one.grad = torch.tensor([1.0, -1.0])
    two().sum_gradients([one, other])
    assert one.grad.tolist() == [2.0, -2.0]
    assert other.grad is not None
    assert other.grad.tolist() == [0.0, 0.0, 0.0]
