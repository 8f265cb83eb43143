"""Freed memory stays with a process that computes on a CPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from lit_instruct.fast.host_memory import (
    KEPT_PRODUCTS,
    OWN_SETTINGS,
    PRODUCT_CACHES,
    keep_few_products,
    keep_freed_memory,
)

FAULTS = """
import ctypes, resource, sys, torch
from lit_instruct.fast.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory(torch.device("cpu"))
libc, size = ctypes.CDLL(None), 2**22  # a thousand pages
libc.malloc.restype, libc.free.argtypes, libc.memset.argtypes = ctypes.c_void_p, [ctypes.c_void_p], [
    ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
]
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [libc.malloc(size) for _ in range(10)]
        for block in blocks:
            libc.memset(block, 1, size)
        for block in blocks:
            libc.free(block)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""
GROWTH = """
import sys, torch
from lit_instruct.fast.host_memory import keep_few_products
if sys.argv[1] == "few":
    keep_few_products(torch.device("cpu"))
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
weight = torch.randn(128, 64, dtype=torch.bfloat16)
rows = torch.randn(1200, 64, dtype=torch.bfloat16)
rows @ weight.T
before = resident()
for length in range(200, 1200):
    rows[:length] @ weight.T
print(resident() - before)
"""
CPU = torch.device("cpu")


def growth(how: str) -> int:
    """Bytes by which a process grows that computes a thousand products of different shapes."""
    clean = {name: value for name, value in os.environ.items() if name not in PRODUCT_CACHES}
    done = subprocess.run([sys.executable, "-c", GROWTH, how], capture_output=True, text=True, check=True, env=clean)
    return int(done.stdout)


@pytest.mark.skipif(
    sys.platform != "linux" or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="reads /proc, and oneDNN compiles for bfloat16 where the CPU has it",
)
def test_few_compiled_products_are_kept() -> None:
    assert growth("few") < growth("many") / 3


def test_own_bounds_of_compiled_products_and_other_devices_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PRODUCT_CACHES:
        monkeypatch.delenv(name, raising=False)
    keep_few_products(torch.device("cuda"))
    assert not set(PRODUCT_CACHES) & set(os.environ)
    monkeypatch.setenv(PRODUCT_CACHES[0], "7")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    keep_few_products(CPU)
    assert [os.environ[name] for name in PRODUCT_CACHES] == ["7", str(KEPT_PRODUCTS)]


def faults(how: str) -> int:
    """Page faults of writing to fifty blocks of memory, ten at a time, once the process is warm."""
    names = ("MALLOC_TOP_PAD_", *OWN_SETTINGS)
    clean = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, env=clean)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_freed_block_is_not_paged_in_again() -> None:
    assert faults("keep") < 1000 < 10_000 < faults("leave")


def test_other_devices_and_own_settings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("changed"))
    assert not keep_freed_memory(torch.device("cuda"))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    assert not keep_freed_memory(CPU)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("changed"))
    assert not keep_freed_memory(CPU)
