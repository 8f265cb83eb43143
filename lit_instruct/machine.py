"""This machine and process: device, memory, package versions."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

PACKAGES = ("lit-instruct", "torch", "lightning", "trl", "transformers", "peft")


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Returns the versions of the packages that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def provenance() -> dict[str, Any]:
    """Returns what a reader needs to judge a measurement: machine (without names or paths), versions and date."""
    return {
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cpu_cores": cpu_cores(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version()} | dict.fromkeys(PACKAGES) | package_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


CPU_FIELDS = ("flags", "Features", "CPU implementer", "CPU part")
"""Fields of /proc/cpuinfo that say what a processor can do, on x86 and on Arm."""


def processor() -> tuple[str, str]:
    """Returns the CPU's name, and a digest of its instruction sets and of those that torch is allowed to use."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    able = [fields.get(name, "") for name in CPU_FIELDS]
    able += [torch.backends.cpu.get_cpu_capability(), os.environ.get("ONEDNN_MAX_CPU_ISA", "")]
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, hashlib.sha256("\n".join(able).encode()).hexdigest()[:12]


def cpu_cores() -> int | None:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def memory_bytes() -> float | None:
    """Returns the machine's memory; None if the system does not report it."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return None


def this_device(accelerator: object = "auto") -> tuple[Literal["cpu", "cuda"], float | None]:
    """Returns the device that a stage runs on here and its memory in bytes (None if unknown).

    Args:
        accelerator: of the Trainer; cpu uses the CPU even if there is a GPU.
    """
    if torch.cuda.is_available() and accelerator != "cpu":
        return "cuda", float(torch.cuda.get_device_properties(0).total_memory)
    return "cpu", memory_bytes()


def peak_bytes(device: str = "cpu") -> float | None:
    """Returns the peak memory of this process so far; None if the system does not report it.

    Args:
        device: cuda for torch's allocations on the GPU; anything else for the process's resident memory.
    """
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return None
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def peak_memory_gb() -> float | None:
    """Returns `peak_bytes` of the process in 10^9 bytes, rounded for records."""
    peak = peak_bytes()
    return None if peak is None else round(peak / 1e9, 2)
