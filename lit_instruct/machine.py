"""What is known about this machine and process: device, memory, package versions."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import torch

PACKAGES = ("lit-instruct", "torch", "lightning", "trl", "transformers", "peft")


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def provenance() -> dict[str, Any]:
    """Returns what a reader needs to judge a measurement: machine (no host name, no path), versions and date."""
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


def cpu_cores() -> int | None:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def memory_bytes() -> float | None:
    """Returns the machine's memory; None where the system does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return None


def this_device(accelerator: object = "auto") -> tuple[Literal["cpu", "cuda"], float | None]:
    """Returns the kind of device that a stage runs on here, and its memory in bytes; None where it is not known.

    Args:
        accelerator: of the Trainer; cpu takes the CPU even where there is a GPU.
    """
    if torch.cuda.is_available() and accelerator != "cpu":
        return "cuda", float(torch.cuda.get_device_properties(0).total_memory)
    return "cpu", memory_bytes()


def peak_bytes(device: str = "cpu") -> float | None:
    """Returns the most memory that this process has held so far; None where the system does not tell.

    Args:
        device: cuda counts what torch allocated on the GPU, anything else the process's resident memory.
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
