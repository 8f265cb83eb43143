"""What every benchmark's JSON says about where it ran, and how that file is written."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

from lit_instruct.files import replacing_file

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "lit-instruct",
    "torch",
    "lightning",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "pyarrow",
    "tokenizers",
    "bitsandbytes",
)


def environment() -> dict[str, Any]:
    """Returns the machine (no name, no path), the packages' versions and the date."""
    import torch

    from lit_instruct.handover import package_versions

    machine: dict[str, Any] = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name(0)
        machine["gpu_memory_gb"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)
    return {
        "machine": machine,
        "versions": {"python": platform.python_version()} | package_versions(PACKAGES),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def write_results(path: str | Path, results: dict[str, Any]) -> Path:
    """Writes `results` and, under "environment", where they come from, as JSON in one go.

    Args:
        path: file; a bare name goes into benchmarks/results.
        results: anything JSON can hold.

    Returns:
        The file.
    """
    content = json.dumps({"environment": environment(), **results}, indent=2) + "\n"
    target = results_file(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(target) as scratch:
        scratch.write_text(content, encoding="utf-8")
    return target


def results_file(path: str | Path) -> Path:
    """Returns where a file of results lies: a bare name is in benchmarks/results."""
    path = Path(path)
    return RESULTS / path if path.parent == Path() else path


def _processor() -> str | None:
    """The processor's name: Linux tells it in /proc/cpuinfo, the others through `platform`."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or None


def _memory_gb() -> float | None:
    """Memory of the machine in 10^9 bytes; None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None
