"""What a process keeps of memory that it no longer needs, where a model computes on a CPU."""

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

PRODUCT_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Environment variables for how many compiled products are kept: by oneDNN, and by the layer of torch above it."""
KEPT_PRODUCTS = 128
"""A forward and a backward pass over rows of one length have some 30; both libraries keep 1,024 of their own accord."""


def spare_host_memory(device: torch.device) -> None:
    """Lets freed tensors' memory be used again at once, and little of the code that was compiled for products be kept.

    Args:
        device: where the model computes; nothing changes but for a CPU.
    """
    keep_freed_memory(device)
    keep_few_products(device)


def keep_few_products(device: torch.device) -> None:
    """Bounds what is kept of the code that oneDNN compiles for each shape of a product in bfloat16.

    A product takes more than half a megabyte, micro-batches of another length need some 30 anew, and compiling one
    takes less than a millisecond (`python -m benchmarks.cpu`): with the libraries' own bounds the code soon outgrows a
    small model's activations. Both read the variables when they compute their first product; a user's own settings win.

    Args:
        device: where the model computes; nothing changes but for a CPU.
    """
    if device.type == "cpu":
        for name in PRODUCT_CACHES:
            os.environ.setdefault(name, str(KEPT_PRODUCTS))


def keep_freed_memory(device: torch.device) -> bool:
    """Lets the process keep the memory of freed tensors for the next ones, and tells whether it could.

    glibc returns free memory to the system as soon as there are a few large blocks of it, and the system hands it out
    again a page at a time, zeroed. For the activations of a small model that takes up to a few hundredths of a pass
    (`python -m benchmarks.cpu`).

    Args:
        device: where the model computes; nothing changes but for a CPU.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in OWN_SETTINGS):
        return False
    library = ctypes.CDLL(None)
    never = 2**31 - 1
    return bool(library.mallopt(MMAP_THRESHOLD, LARGEST_BLOCK) and library.mallopt(TRIM_THRESHOLD, never))
