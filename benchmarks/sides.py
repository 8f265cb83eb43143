"""Two sides of a comparison, each measured in processes of its own that take turns; and how much memory one holds.

A benchmark `python -m benchmarks.NAME` that uses it answers `--side SIDE --work JSON` with a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SIDES = ("trl", "ours")
Work = dict[str, Any]
Result = dict[str, Any]


def run_side(module: str, side: str, work: Work) -> Result:
    """Runs one side in a process of its own and returns the last line that it prints.

    Args:
        module: of the benchmark, such as benchmarks.rm.
        side: what the process is asked for.
        work: anything JSON can hold.

    Raises:
        RuntimeError: it failed; the end of what it said is in the message.
    """
    command = [sys.executable, "-m", module, "--side", side, "--work", json.dumps(work)]
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():  # Lightning ends with 0 when it is told to stop
        raise RuntimeError(f"{module} --side {side} failed with {done.returncode}:\n{done.stderr[-3000:]}")
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found


def take_turns(
    works: Mapping[str, Mapping[str, Work]], repetitions: int, run: Callable[[str, Work], Result]
) -> dict[str, dict[str, list[Result]]]:
    """Measures every case on both sides, so interleaved that a machine that slows down slows all of them.

    Args:
        works: case -> side -> its work.
        repetitions: how often; which side goes first changes each time.
        run: (side, work) -> result.

    Returns:
        case -> side -> results in order.
    """
    results: dict[str, dict[str, list[Result]]] = {case: {side: [] for side in sides} for case, sides in works.items()}
    for repetition in range(repetitions):
        for case, sides in works.items():
            order = list(sides)[:: 1 if repetition % 2 == 0 else -1]
            for side in order:
                results[case][side].append(run(side, sides[side]))
    return results


def reset_peak() -> None:
    """Forgets the peak so far, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Returns the most memory that this process has held at one time."""
    found = _status("VmHWM")
    return found if found is not None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def resident_bytes() -> int:
    """Returns the memory that this process holds now; where the system does not tell, the most it has held."""
    found = _status("VmRSS")
    return found if found is not None else peak_bytes()


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def _status(name: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None
