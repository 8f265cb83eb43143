"""Frozen weights on a CPU, laid out once in oneDNN's blocks rather than by every product.

A product with few rows takes most of its time to bring the weight into the order in which the processor multiplies; in
bfloat16, oneDNN lays it out anew at every call. PyTorch's compiler packs the weights of frozen models in the same way.
`python -m benchmarks.packed` measures both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

ROWS = 32
"""Rows that the layout is chosen for; any other number of rows gives the same sums."""


def can_pack(weight: Tensor) -> bool:
    """Tells whether a weight can be packed: a plain frozen matrix on a CPU, in a dtype that oneDNN multiplies there."""
    if weight.device.type != "cpu" or weight.dim() != 2 or weight.requires_grad or weight.layout != torch.strided:
        return False
    if type(weight) not in (Tensor, nn.Parameter):  # quantised, sharded
        return False
    return weight.dtype in (torch.float32, torch.bfloat16) and _has_operators(weight.dtype)


def _has_operators(dtype: torch.dtype) -> bool:
    found = getattr(torch.ops, "mkldnn", None)
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    if not (hasattr(found, "_reorder_linear_weight") and hasattr(found, "_linear_pointwise")):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def packed(weight: Tensor) -> Tensor:
    """Returns a copy of a weight in oneDNN's layout: (out, in), opaque; `to_dense()` gives the weight back."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns W x + b for a packed W, without gradient: (..., in) in W's dtype -> (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(x.detach(), weight, bias, "none", [], "")


class PackedLinear(nn.Linear):
    """nn.Linear whose weight is packed. It can compute a gradient of its input too, but not fast."""

    @classmethod
    def of(cls, weight: Tensor, bias: nn.Parameter | None = None) -> PackedLinear:
        """Returns a layer with a weight that is packed already: (out, in), and (out,) or None."""
        layer = cls(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.register_parameter("bias", bias)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Returns W x + b: (..., in) -> (..., out)."""
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        if x.dtype != self.weight.dtype or (torch.is_grad_enabled() and x.requires_grad):
            return linear(x, self.weight.to_dense(), self.bias)
        return packed_linear(x, self.weight, self.bias)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """A state dict has the plain weight: others copy and save it."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.to_dense()


def pack_layers(layers: Iterable[nn.Linear]) -> None:
    """Packs the weights of frozen layers in place: each holds its packed form alone."""
    for layer in layers:
        layer.weight = nn.Parameter(packed(layer.weight), requires_grad=False)
        layer.__class__ = PackedLinear


def unpack_layers(network: nn.Module) -> None:
    """Undoes `pack_layers` for all layers of a network, bit for bit."""
    for layer in network.modules():
        if type(layer) is PackedLinear:
            layer.weight = nn.Parameter(layer.weight.to_dense(), requires_grad=False)
            layer.__class__ = nn.Linear
