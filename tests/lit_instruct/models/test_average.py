"""The exponential average of weights."""

from __future__ import annotations

import torch
from torch import nn

from lit_instruct.models.average import WeightAverage


def test_it_follows_its_formula() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    average = WeightAverage([parameter], decay=0.75)
    parameter.data = torch.tensor([5.0, -2.0])
    average.update()
    average.update()
    # 1 -> 0.75 * 1 + 0.25 * 5 = 2 -> 0.75 * 2 + 0.25 * 5 = 2.75; 2 -> 1 -> 0.25
    assert average.averages[0].tolist() == [2.75, 0.25]


def test_inside_the_block_the_parameters_hold_it_and_afterwards_their_own_values() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.bfloat16))
    average = WeightAverage([parameter], decay=0.5)
    own = torch.tensor([3.0, 4.0], dtype=torch.bfloat16)
    parameter.data = own
    average.update()
    with average.in_place():
        assert parameter.tolist() == [2.0, 3.0]
        assert parameter.dtype == torch.bfloat16
        parameter.data.zero_()  # what happens inside stays inside
    assert parameter.data_ptr() == own.data_ptr()
    assert own.tolist() == [3.0, 4.0]
    assert average.averages[0].tolist() == [2.0, 3.0]


def test_it_is_kept_in_float32() -> None:
    parameter = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    average = WeightAverage([parameter], decay=0.992)
    parameter.data += 1
    for _ in range(3):
        average.update()
    assert abs(average.averages[0].item() - (2 - 0.992**3)) < 1e-6


def test_a_saved_average_is_taken_up() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    average = WeightAverage([parameter], decay=0.5)
    average.load([torch.tensor([4.0, 6.0])])
    average.update()
    assert average.averages[0].tolist() == [2.0, 3.0]
