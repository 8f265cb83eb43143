"""What training keeps of its forward passes for the backward ones, and how to keep less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from lit_instruct.errors import UserError


@dataclass
class MemoryOptions:
    """What is done to keep less in the device's memory; neither changes a gradient.

    Args:
        gradient_checkpointing: keeps only the input of each decoder layer and computes the rest again in the backward
            pass: a third more work.
        activation_offloading: keeps what the backward pass needs in the host's memory and brings it back in time. On a
            CPU, where it lies there already, it does nothing.
    """

    gradient_checkpointing: bool = False
    activation_offloading: bool = False


def checkpoint_layers(network: nn.Module) -> None:
    """Makes every decoder layer keep only its input, and compute the rest again in the backward pass.

    transformers' own switch works in training mode alone; PPO is always in evaluation mode, without dropout. The
    backward pass must come before another adapter becomes active: the layers are computed again with the active one.

    Args:
        network: a transformers model, PEFT's wrapper and all; all of its layers are changed.

    Raises:
        UserError: it has no layers that transformers would checkpoint.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise UserError("--model.memory.gradient_checkpointing: this model's layers are not made for it; leave it out")
    for layer in layers:
        in_8_bits = any(type(parameter).__name__ == "Int8Params" for parameter in layer.parameters())
        layer.forward = partial(_reentrant if in_8_bits else _checkpointed, layer, layer.forward)


def _checkpointed(_: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _reentrant(layer: nn.Module, forward: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The kind of checkpoint whose first pass has no graph.

    bitsandbytes keeps the input of an 8-bit product in the graph, where the other kind does not see it.
    """
    if not torch.is_grad_enabled():
        return forward(hidden, *args, **kwargs)
    if not hidden.requires_grad:  # the first adapted layer, or one below it
        if not any(parameter.requires_grad for parameter in layer.parameters()):
            return forward(hidden, *args, **kwargs)
        hidden = hidden.detach().requires_grad_()
    return checkpoint(partial(forward, **kwargs), hidden, *args, use_reentrant=True)
