"""The memory of the device that a stage would run on here."""

from __future__ import annotations

import os
from typing import Literal

import torch


def this_device(accelerator: object = "auto") -> tuple[Literal["cpu", "cuda"], float | None]:
    """Returns the kind of device and its memory in bytes; None where the system does not tell.

    Args:
        accelerator: of the Trainer; cpu takes the CPU though there is a card.
    """
    if torch.cuda.is_available() and accelerator != "cpu":
        return "cuda", float(torch.cuda.get_device_properties(0).total_memory)
    try:
        return "cpu", float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return "cpu", None


def measured_peak(device: str) -> float | None:
    """Returns the most bytes that this process has held on a device so far; None where the system does not tell."""
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return None
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
