"""What a reader needs to judge a report: machine, versions, date."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

PACKAGES = ("lit-instruct", "torch", "lightning", "trl", "transformers", "peft")


def provenance() -> dict[str, Any]:
    """Machine, versions and date of a measurement."""
    return {
        "machine": _machine(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _machine() -> dict[str, Any]:
    """What a reader needs to judge the seconds; no host name, no path."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine: dict[str, Any] = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu_cores": cores,
    }
    machine["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return machine


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
