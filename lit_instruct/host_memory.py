"""How the C library gives memory back to the system, where a model computes on a CPU."""

from __future__ import annotations

import ctypes
import os
import platform

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, by the numbers that glibc's malloc.h gives them."""
LARGEST_BLOCK = 32 * 2**20
"""Bytes; glibc takes no larger threshold."""
OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables by which a user sets the same."""


def keep_freed_memory(device: torch.device) -> bool:
    """Lets the process keep the memory of freed tensors for the next ones, and tells whether it could.

    glibc returns free memory to the system as soon as there are a few large blocks of it, and the system hands it out
    again a page at a time, zeroed. For the activations of a small model that takes a few hundredths of a pass, and more
    where the machine is busy: `python -m benchmarks.cpu` measures it.

    Args:
        device: where the model computes; nothing changes but for a CPU.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in OWN_SETTINGS):
        return False
    library = ctypes.CDLL(None)
    never = 2**31 - 1
    return bool(library.mallopt(MMAP_THRESHOLD, LARGEST_BLOCK) and library.mallopt(TRIM_THRESHOLD, never))
