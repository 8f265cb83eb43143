"""Private attributes of PEFT, as read in version 0.21.2: the only place that touches them.

`tests/lit_instruct/test_private.py` says what breaks when one of them changes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.lora import LoraLayer


def activate(layer: LoraLayer, adapter: str | None) -> None:
    """Makes an adapter the only active one of a layer, None none; public `set_adapter` also flips `requires_grad`."""
    disable(layer, adapter is None)
    if adapter is not None:
        layer._active_adapter = [adapter]


def disable(layer: LoraLayer, disabled: bool) -> None:
    """Turns the adapters of a layer off or on; public `enable_adapters` also flips `requires_grad`."""
    layer._disable_adapters = disabled


def drop_weight_norm(layer: LoraLayer, adapter: str) -> None:
    """Drops the norm that DoRA keeps for unmerging an adapter."""
    layer._cache_pop(f"{adapter}-weight_norm")


@contextmanager
def quiet() -> Iterator[None]:
    """Hides that PEFT reads an attribute which transformers has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield
