"""What a forward pass stores for the backward pass, and how to store less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from lit_instruct.errors import UserError


@dataclass
class MemoryOptions:
    """How to use less device memory; no option changes a gradient.

    Args:
        gradient_checkpointing: stores only the input of each decoder layer and recomputes the rest in the backward
            pass: a third more work.
        activation_offloading: stores what the backward pass needs in host memory and copies it back in time. It has no
            effect on a CPU.
        pack_output: keeps a copy of a frozen output embedding on a CPU, in the layout in which its products are
            faster, if they are.
    """

    gradient_checkpointing: bool = False
    activation_offloading: bool = False
    pack_output: bool = field(default=True, kw_only=True)


def checkpoint_layers(network: nn.Module) -> None:
    """Makes every decoder layer of a transformers model store only its input and recompute the rest in backward.

    transformers' own switch works only in training mode; PPO is always in evaluation mode, without dropout. The
    backward pass must run before another adapter is activated: layers are recomputed with the active one.

    Raises:
        UserError: the model has no layers that transformers can checkpoint.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise UserError("--model.memory.gradient_checkpointing: this model does not support it; leave it out")
    for layer in layers:
        in_8_bits = any(type(parameter).__name__ == "Int8Params" for parameter in layer.parameters())
        layer.forward = partial(_reentrant if in_8_bits else _checkpointed, layer, layer.forward)


def _checkpointed(_: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _reentrant(layer: nn.Module, forward: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Checkpoints a layer without a graph in the first pass.

    bitsandbytes stores the input of an 8-bit product in the graph, where non-reentrant checkpointing does not find it.
    """
    if not torch.is_grad_enabled():
        return forward(hidden, *args, **kwargs)
    if not hidden.requires_grad:  # the first adapted layer, or one below it
        if not any(parameter.requires_grad for parameter in layer.parameters()):
            return forward(hidden, *args, **kwargs)
        hidden = hidden.detach().requires_grad_()
    return checkpoint(partial(forward, **kwargs), hidden, *args, use_reentrant=True)
