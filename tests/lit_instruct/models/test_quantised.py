"""Gradients through a 4-bit base after a pass without gradients."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch import nn

from lit_instruct.models.quantised import keep_differentiable


@pytest.mark.filterwarnings("error:.*autograd kernel was not registered")
def test_gradients_after_evaluation() -> None:
    network = nn.Sequential(nn.Linear(64, 64), Linear4bit(64, 64, compute_dtype=torch.float32)).to("cpu")
    keep_differentiable(network)
    inputs = torch.randn(3, 64)
    gradients = []
    for _ in range(2):
        network.zero_grad()
        network.train()(inputs).square().sum().backward()
        gradients.append(network[0].weight.grad.clone())
        with torch.no_grad():
            network.eval()(inputs)
    assert float(gradients[0].abs().max()) > 0
    assert torch.equal(*gradients)
