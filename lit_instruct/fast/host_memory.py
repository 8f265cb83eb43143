"""Settings that keep the host memory of a process small and fast when a model runs on a CPU."""

from __future__ import annotations

import ctypes
import os
import platform

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, by the numbers that glibc's malloc.h gives them."""
LARGEST_BLOCK = 32 * 2**20
"""Bytes; the largest threshold that glibc accepts."""
OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables with which a user sets the same parameters."""

PRODUCT_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Environment variables that bound the number of compiled matrix products cached by oneDNN and by torch above it."""
KEPT_PRODUCTS = 128
"""Forward and backward over rows of one length use about 30; both libraries keep 1,024 by default."""


def spare_host_memory(device: torch.device) -> None:
    """Reuses the memory of freed tensors and caches few compiled matrix products, if the model computes on a CPU."""
    keep_freed_memory(device)
    keep_few_products(device)


def keep_few_products(device: torch.device) -> None:
    """Bounds the cache of code that oneDNN compiles on a CPU for each shape of a bfloat16 matrix product.

    The code of one product takes more than half a megabyte and less than a millisecond to compile, and micro-batches of
    each length need about 30 (`python -m benchmarks.cpu`): with the default bounds the cache soon outgrows a small
    model's activations. Both libraries read the variables at their first product; a user's own settings win.
    """
    if device.type == "cpu":
        for name in PRODUCT_CACHES:
            os.environ.setdefault(name, str(KEPT_PRODUCTS))


def keep_freed_memory(device: torch.device) -> bool:
    """Keeps the memory of tensors freed on a CPU in the process for the next ones; returns whether that was possible.

    By default glibc returns large freed blocks to the system, which zeroes them page by page when they are needed
    again. For the activations of a small model that takes up to a few percent of a pass (`python -m benchmarks.cpu`).
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in OWN_SETTINGS):
        return False
    library = ctypes.CDLL(None)
    never = 2**31 - 1
    return bool(library.mallopt(MMAP_THRESHOLD, LARGEST_BLOCK) and library.mallopt(TRIM_THRESHOLD, never))
