"""NaN and inf in figures, gradients and weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

OnNonFinite = Literal["stop", "skip"]
""""stop" ends the training, "skip" leaves the step out."""


def non_finite(figures: Mapping[str, float]) -> list[str]:
    """Returns "name is nan" (or inf, -inf) of each figure that is not finite."""
    return [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]


def gradient_norm(optimizer: Optimizer) -> float | None:
    """Returns the norm of all gradients of an optimizer; None if it has none."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return None
    norm = torch.nn.utils.get_total_norm(gradients)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def non_finite_weights(weights: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Returns the names of the tensors that have a NaN or inf."""
    return [name for name, value in weights if not bool(value.isfinite().all())]
