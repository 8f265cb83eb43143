"""AdamW, and the optimizers of bitsandbytes, which keep their states in 8 bits."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

OptimizerName = Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "lion_8bit"]
"""AdamW with states in float32 (8 bytes a trained weight), in 8 bits (2 bytes), in 8 bits in memory that a CUDA device
may move to the host, or Lion with its one state in 8 bits (1 byte)."""
BETA1 = 0.9


def make_optimizer(
    name: OptimizerName,
    parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
    learning_rate: float,
    beta2: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Returns an optimizer with decoupled weight decay; beta1 is 0.9.

    States of fewer than 4,096 numbers stay in float32 whatever the name. On a CPU there is nothing to page from, and
    paged_adamw_8bit is adamw_8bit.

    Args:
        name: which.
        parameters: what is trained, or groups of it as torch takes them.
        learning_rate: of groups without one; Lion's steps all have this size, and it wants a third to a tenth of
            AdamW's.
        beta2: decay of the second moment (AdamW) or of the momentum (Lion).
        weight_decay: share of a weight that a step at learning rate 1 would take away.
    """
    options: dict[str, Any] = {"lr": learning_rate, "betas": (BETA1, beta2), "weight_decay": weight_decay}
    if name == "adamw":
        return torch.optim.AdamW(parameters, **options)
    import bitsandbytes.optim  # not installed everywhere; `quantised.check_bitsandbytes` has said so at the start

    warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU")
    kinds = {"adamw_8bit": "AdamW8bit", "paged_adamw_8bit": "PagedAdamW8bit", "lion_8bit": "Lion8bit"}
    return getattr(bitsandbytes.optim, kinds[name])(parameters, **options)
