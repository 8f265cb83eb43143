"""The optimizers of bitsandbytes beside torch's AdamW: their steps, their states, and their state dicts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_instruct.models.optimizers import OptimizerName, make_optimizer

EIGHT_BITS: list[OptimizerName] = ["adamw_8bit", "paged_adamw_8bit", "lion_8bit"]


def _weights() -> list[nn.Parameter]:
    """One tensor large enough for 8-bit states, and one that is not."""
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(64, 128, generator=draw)), nn.Parameter(torch.randn(32, generator=draw))]


def _train(optimizer: Any, weights: list[nn.Parameter], steps: int, seed: int = 1) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for weight in weights:
            weight.grad = 0.3 * weight.detach() + torch.randn(weight.shape, generator=draw)
        optimizer.step()
    return [weight.detach().clone() for weight in weights]


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "paged_adamw_8bit"])
def test_each_adamw_takes_torchs_steps(name: OptimizerName) -> None:
    weights, expected = _weights(), _weights()
    own = make_optimizer(name, weights, 1e-2, 0.95, 0.1)
    theirs = torch.optim.AdamW(expected, 1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    found, wanted = _train(own, weights, 10), _train(theirs, expected, 10)
    moved = [(after - before).norm() for after, before in zip(wanted, _weights(), strict=True)]
    apart = [(one - other).norm() for one, other in zip(found, wanted, strict=True)]
    assert all(float(far) > 0.1 for far in moved)
    assert float(apart[0]) < (1e-5 if name == "adamw" else 0.1 * float(moved[0]))
    assert float(apart[1]) < 1e-5  # small tensors keep states in float32


def test_lion_takes_steps_of_one_size() -> None:
    """w <- w (1 - lr decay) - lr sign(0.9 m + 0.1 g), m <- beta2 m + (1 - beta2) g."""
    weights, expected, momentum = _weights(), _weights()[1].detach(), torch.zeros(32)
    optimizer = make_optimizer("lion_8bit", weights, 1e-2, 0.99, 0.1)
    draw = torch.Generator().manual_seed(2)
    for _ in range(5):
        gradient = torch.randn(32, generator=draw)
        weights[1].grad = gradient
        optimizer.step()
        expected = expected * (1 - 1e-2 * 0.1) - 1e-2 * (0.9 * momentum + 0.1 * gradient).sign()
        momentum = 0.99 * momentum + 0.01 * gradient
    torch.testing.assert_close(weights[1].detach(), expected)


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_states_are_in_8_bits(name: OptimizerName) -> None:
    weights = _weights()
    optimizer = make_optimizer(name, weights, 1e-2, 0.95, 0.0)
    _train(optimizer, weights, 1)
    states = [key for key in optimizer.state[weights[0]] if key in ("state1", "state2")]
    assert states == (["state1"] if name == "lion_8bit" else ["state1", "state2"])
    assert {optimizer.state[weights[0]][key].dtype for key in states} == {torch.uint8}
    assert {optimizer.state[weights[1]][key].dtype for key in states} == {torch.float32}


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_a_loaded_state_goes_on_to_the_bit(name: OptimizerName) -> None:
    weights = _weights()
    optimizer = make_optimizer(name, weights, 1e-2, 0.95, 0.1)
    _train(optimizer, weights, 5)
    saved = copy.deepcopy(optimizer.state_dict())
    again = [nn.Parameter(weight.detach().clone()) for weight in weights]
    loaded = make_optimizer(name, again, 1e-2, 0.95, 0.1)
    loaded.load_state_dict(saved)
    for one, other in zip(_train(optimizer, weights, 5, 3), _train(loaded, again, 5, 3), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["adamw", *EIGHT_BITS])
def test_groups_keep_learning_rates_of_their_own(name: OptimizerName) -> None:
    weights = _weights()
    groups = [{"params": [weights[0]], "lr": 0.0}, {"params": [weights[1]], "lr": 1e-2}]
    found = _train(make_optimizer(name, groups, 1e-3, 0.95, 0.0), weights, 1)
    before = _weights()
    assert torch.equal(found[0], before[0])
    assert not torch.equal(found[1], before[1])
