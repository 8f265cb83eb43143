"""Times that decide how a processor computes: measured once on each machine and remembered in the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock

from lit_instruct.files import cache_folder, json_text, replacing_file

log = logging.getLogger(__name__)
TIME = 0.1
"""Seconds that all passes of one comparison take together, about."""
FEWEST_ROUNDS, MOST_ROUNDS = 2, 12
"""Passes of each way; the first of them compiles kernels, and the fastest counts."""
own_clock = time.thread_time if sys.platform == "linux" else time.perf_counter
"""A thread's own time: it goes on while the other threads of a product work, not while other processes do."""
Name = TypeVar("Name", bound=str)

_known: dict[tuple[Path, str], Mapping[Any, float]] = {}


def taking_turns(ways: Mapping[Name, Callable[[], float]]) -> dict[Name, float]:
    """Returns the seconds of the fastest pass of each way.

    The ways take turns, and the fastest pass counts, so that other work on the machine disturbs little.

    Args:
        ways: name -> a function that makes one pass and returns its seconds.
    """
    fastest = dict.fromkeys(ways, math.inf)
    spent = 0.0
    for done in range(MOST_ROUNDS):
        if done >= FEWEST_ROUNDS and spent > TIME:
            break
        for name, once in ways.items():
            seconds = once()
            fastest[name], spent = min(fastest[name], seconds), spent + seconds
    return fastest


def conditions_here(processor: tuple[str, str]) -> dict[str, Any]:
    """Returns what a time depends on: the processor (name and digest of its instructions), threads and torch."""
    name, flags = processor
    return {"processor": name, "flags": flags, "threads": torch.get_num_threads(), "torch": torch.__version__}


def measured_once(
    kind: str, conditions: Mapping[str, Any], names: Sequence[Name], measure: Callable[[], dict[Name, float]]
) -> dict[Name, float]:
    """Returns measured seconds by name, from the cache folder if they were measured before under the same conditions.

    Args:
        kind: folder in the cache folder.
        conditions: what the times depend on.
        names: of the times.
        measure: measures all of them.
    """
    folder, key = cache_folder() / kind, json.dumps(conditions)
    if (folder, key) not in _known:
        _known[folder, key] = _measured(folder, key, names, measure)
    return {name: _known[folder, key][name] for name in names}


def _measured(
    folder: Path, key: str, names: Sequence[Name], measure: Callable[[], dict[Name, float]]
) -> Mapping[Any, float]:
    file = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):  # of several processes one measures
            return _read(file, key, names) or _write(file, key, measure())
    except (OSError, NotImplementedError) as error:  # a folder that cannot be written, or without locks
        log.debug("%s: %s", file, error)
        return measure()


def _read(file: Path, key: str, names: Sequence[Name]) -> dict[Name, float] | None:
    """What was measured; None if nothing was, or if the file is damaged or of other conditions."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        seconds = {name: float(record["seconds"][name]) for name in names}
        return seconds if record["key"] == key and all(0 < one < math.inf for one in seconds.values()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, key: str, seconds: dict[Name, float]) -> dict[Name, float]:
    with contextlib.suppress(OSError), replacing_file(file) as scratch:
        scratch.write_text(json_text({"key": key, "seconds": seconds}), encoding="utf-8")
    return seconds
