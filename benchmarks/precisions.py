"""Which precisions a benchmark runs here: one that this processor only emulates would take hours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_instruct.models.dtype import KnownDtype

NAMES: dict[str, KnownDtype] = {"bf16": "bfloat16", "fp32": "float32"}
SLOWER = 3.0
"""A precision that takes this many times as long as the fastest one is not run, unless it is asked for by name."""


def not_run(base: str, device: str = "cpu") -> dict[str, str]:
    """Returns the precisions that are too slow on this processor, each with what the probe of `dtype: auto` found.

    Args:
        base: the model, whose widths are probed.
        device: on others than cpu nothing is probed.
    """
    if device != "cpu":
        return {}
    from lit_instruct.models.dtype import seconds_here, widths_of  # the process that asks stays free of torch
    from lit_instruct.models.loading import find_source, load_config

    seconds = seconds_here(widths_of(load_config(find_source(base))))
    fastest = min(NAMES, key=lambda name: seconds[NAMES[name]])
    slower = {name: seconds[kind] / seconds[NAMES[fastest]] for name, kind in NAMES.items()}
    return {
        name: f"{times:.1f} times as slow as {fastest} in a probe of two layers"
        for name, times in slower.items()
        if times >= SLOWER
    }


def first_run(base: str, names: Sequence[str] = ("bf16", "fp32"), device: str = "cpu") -> str:
    """Returns the first of some precisions that is run here."""
    slow = not_run(base, device)
    return next(name for name in names if name not in slow)
