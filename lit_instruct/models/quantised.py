"""What bases in 8 and 4 bits need."""

from __future__ import annotations

from torch import nn


def keep_differentiable(network: nn.Module) -> None:
    """Keeps 4-bit layers in the form that gradients pass through.

    On CPUs with AVX512-BF16, the first forward in evaluation mode without gradients makes bitsandbytes repack the
    weights for good into a form whose product has no gradient: after a validation, the adapters below it would silently
    learn nothing.

    Args:
        network: to be trained; its 4-bit layers, if it has any, are changed.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
