"""Freed memory stays with a process that computes on a CPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from lit_instruct.host_memory import OWN_SETTINGS, keep_freed_memory

FAULTS = """
import ctypes, resource, sys, torch
from lit_instruct.host_memory import keep_freed_memory
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
CPU = torch.device("cpu")


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
