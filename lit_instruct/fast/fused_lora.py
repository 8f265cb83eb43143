"""LoRA on a frozen matrix with as few passes over memory as possible.

PEFT's forward casts the input to the adapter's float32, autocast casts it back, and adding the scaled product takes two
more passes over the output. The matrices of a small model are so narrow that these passes cost as much as the products.
Here the low-rank product is accumulated onto the frozen one, in forward and in backward.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def fuse_adapters(network: nn.Module) -> None:
    """Turns every plain LoRA layer of a network into a `FusedLinear`; other kinds (8- and 4-bit) are left unchanged."""
    for layer in network.modules():
        if type(layer) is PeftLinear and type(layer.get_base_layer()) is nn.Linear and not layer.fan_in_fan_out:
            layer.__class__ = FusedLinear


class FusedLinear(PeftLinear):
    """PEFT's LoRA layer on nn.Linear, y = W x + b + s B A x, with one adapter at a time and W frozen."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns y: (..., in) -> (..., out); falls back to PEFT if the fused product does not apply."""
        adapter = None if args or kwargs else self._fusable_adapter(x.device.type)
        if adapter is None:
            return super().forward(x, *args, **kwargs)
        base = self.base_layer
        down, up = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        return FusedLora.apply(x, base.weight, base.bias, down, up, self.scaling[adapter])

    def _fusable_adapter(self, device: str) -> str | None:
        """Returns the active adapter if it is a single plain one without active dropout and W is frozen."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        adapter, weight = self.active_adapters[0], self.base_layer.weight
        if adapter not in self.lora_A or adapter in self.lora_variant or self.lora_bias[adapter]:
            return None
        dropped = self.training and not isinstance(self.lora_dropout[adapter], nn.Identity)
        one_dtype = torch.is_autocast_enabled(device) or self.lora_A[adapter].weight.dtype == weight.dtype
        return adapter if one_dtype and not dropped and not weight.requires_grad else None


class FusedLora(torch.autograd.Function):
    """y = x W' + b + s (x A') B', all in one dtype; gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
    ) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        rows, weight = x.to(dtype).reshape(-1, x.shape[-1]), weight.to(dtype)
        small_down, small_up = down.to(dtype), up.to(dtype) * scaling
        low = rows @ small_down.T
        y = nn.functional.linear(rows, weight, None if bias is None else bias.to(dtype))
        y.addmm_(low, small_up.T)
        ctx.save_for_backward(rows, weight, low, small_down, small_up)
        ctx.scaling, ctx.kinds = scaling, (x.dtype, down.dtype, up.dtype)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, low, down, up = ctx.saved_tensors
        kind, down_kind, up_kind = ctx.kinds
        shape, grad = grad.shape[:-1], grad.reshape(-1, grad.shape[-1])
        grad_low = grad @ up
        grad_x = grad_down = grad_up = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(grad_low, down).view(*shape, -1).to(kind)
        if ctx.needs_input_grad[3]:
            grad_down = (grad_low.T @ rows).to(down_kind)
        if ctx.needs_input_grad[4]:
            grad_up = (grad.T @ low).to(up_kind) * ctx.scaling
        return grad_x, None, None, grad_down, grad_up, None
