"""What is not finite is found and named."""

from __future__ import annotations

import pytest
import torch

from lit_instruct.models.finite import gradient_norm, non_finite, non_finite_weights


def test_figures() -> None:
    figures = {"loss/policy": 1.0, "loss/value": float("nan"), "the gradient": float("-inf")}
    assert non_finite(figures) == ["loss/value is nan", "the gradient is -inf"]


def test_gradients() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    optimizer = torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:]}], lr=1.0)
    assert gradient_norm(optimizer) is None
    parameters[0].grad, parameters[2].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert gradient_norm(optimizer) == pytest.approx(5.0)
    parameters[2].grad[0] = float("nan")
    assert str(gradient_norm(optimizer)) == "nan"


def test_weights() -> None:
    weights = {"a": torch.ones(2), "b": torch.tensor([1.0, float("inf")]), "c": torch.tensor([1, 2])}
    assert non_finite_weights(weights.items()) == ["b"]
