"""AdamW, and the optimizers of bitsandbytes with 8-bit states."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

OptimizerName = Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "lion_8bit"]
"""AdamW with float32 states (8 bytes per trained weight), with 8-bit states (2 bytes), with 8-bit states that a CUDA
device may page to host memory, or Lion with its one state in 8 bits (1 byte)."""
BETA1 = 0.9


def make_optimizer(
    name: OptimizerName,
    parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
    learning_rate: float,
    beta2: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Returns an optimizer with decoupled weight decay; beta1 is 0.9.

    States of fewer than 4,096 values always stay in float32. On a CPU there is no paging, and paged_adamw_8bit is the
    same as adamw_8bit.

    Args:
        name: the optimizer.
        parameters: trained parameters, or parameter groups as torch takes them.
        learning_rate: of groups without one; Lion needs a third to a tenth of AdamW's, as its steps all have this size.
        beta2: decay of the second moment (AdamW) or of the momentum (Lion).
        weight_decay: coefficient of decoupled weight decay.
    """
    options: dict[str, Any] = {"lr": learning_rate, "betas": (BETA1, beta2), "weight_decay": weight_decay}
    if name == "adamw":
        return torch.optim.AdamW(parameters, **options)
    import bitsandbytes.optim  # optional; `quantised.check_bitsandbytes` has checked it at the start

    warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU")
    kinds = {"adamw_8bit": "AdamW8bit", "paged_adamw_8bit": "PagedAdamW8bit", "lion_8bit": "Lion8bit"}
    return getattr(bitsandbytes.optim, kinds[name])(parameters, **options)
