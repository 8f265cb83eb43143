"""What all benchmarks share: the command line, sides that take turns in processes of their own, memory, and the JSON.

A benchmark is a module with `main = Command(...)`. It says what is measured; `python -m benchmarks.NAME` parses the
options, prints the tables and writes benchmarks/results/NAME.json.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import RESULTS, ROOT
from benchmarks.fill_tables import TABLES
from lit_instruct.files import replacing_file

DEMO = ROOT / "recipes" / "demo" / "data"
SIDES = ("trl", "ours")
PACKAGES = ["lit-instruct", "torch", "lightning", "transformers", "trl", "peft", "datasets", "pyarrow", "tokenizers"]
PACKAGES += ["bitsandbytes"]
Work = dict[str, Any]
Result = dict[str, Any]

say = partial(print, flush=True)
scratch_folder = partial(tempfile.TemporaryDirectory, prefix="lit-instruct-bench-")


@dataclass(frozen=True)
class Found:
    """What a benchmark measured."""

    results: dict[str, Any]  # anything JSON can hold
    out: str  # file without --out; a bare name goes into benchmarks/results
    tables: Sequence[str] = ()  # names in `fill_tables.TABLES` that are printed
    part: str | None = None  # key that `results` replace in the file; None replaces the whole file
    chart: Callable[[Path], object] | None = None  # draws into the PNG file of this name, beside the JSON
    code: int = 0  # exit status


@dataclass(frozen=True)
class Command:
    """The command `python -m MODULE`."""

    module: str  # such as benchmarks.sft
    about: str | None  # text of --help
    measure: Callable[[Namespace], Found]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # flag -> keywords of `add_argument`
    repetitions: int | None = None  # default of --repetitions; None leaves the option out
    quick: str | None = None  # help of --quick, which runs one repetition and writes no file; None leaves it out
    base: bool = False  # whether there is --base, a model

    def parse(self, words: Sequence[str] | None = None) -> Namespace:
        """Returns the options; with --quick there is one repetition."""
        parser = ArgumentParser(
            prog=f"python -m {self.module}", description=self.about, formatter_class=RawDescriptionHelpFormatter
        )
        parser.set_defaults(quick=False)
        if self.base:
            from lit_instruct.models.embedded import NAME

            parser.add_argument("--base", default=NAME, help="model: embedded name, folder or hub id")
        for flag, keywords in self.options.items():
            parser.add_argument(flag, **keywords)
        if self.repetitions is not None:
            parser.add_argument("--repetitions", type=int, default=self.repetitions, help="we report the median")
        if self.quick is not None:
            parser.add_argument("--quick", action="store_true", help=f"{self.quick}; no file unless --out names one")
        parser.add_argument("--out", help="file of the results; a bare name goes into benchmarks/results")
        options = parser.parse_args(words)
        if options.quick:
            options.repetitions = 1
        return options

    def __call__(self, words: Sequence[str] | None = None) -> int:
        """Measures, prints the tables, writes the file and returns the exit status."""
        options = self.parse(words)
        found = self.measure(options)
        if found.tables:
            show(found.tables, found.results)
        if options.out is not None or not options.quick:
            path = write_part(options.out or found.out, found.part, found.results)
            if found.chart is not None:
                found.chart(path.with_suffix(".png"))
            say("written to", path.name)
        return found.code


def run_side(module: str, side: str, work: Work, variables: Mapping[str, str] | None = None) -> Result:
    """Calls a function in a process of its own and returns its result.

    Args:
        module: that has the function, such as benchmarks.rm_sides.
        side: name of the function.
        work: its arguments; dataclasses become dicts, and the rest is what JSON can hold.
        variables: of the environment, beside the usual ones.

    Raises:
        RuntimeError: it failed; the end of its stderr is in the message.
    """
    command = [sys.executable, "-m", "benchmarks.side", module, side, json.dumps(work, default=asdict)]
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    env = {**os.environ, **quiet, **(variables or {})}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():  # Lightning exits with 0 when it is interrupted
        raise RuntimeError(f"{module}.{side} failed with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def take_turns(
    works: Mapping[str, Mapping[str, Work]],
    repetitions: int,
    run: Callable[[str, Work], Result],
    figure: Callable[[Result], str] | None = None,
) -> dict[str, dict[str, list[Result]]]:
    """Measures every case on both sides, interleaved, so that a machine that slows down slows all of them.

    Args:
        works: case -> side -> its work.
        repetitions: how often; which side goes first changes each time.
        run: (side, work) -> result.
        figure: what is printed of each result; None prints nothing.

    Returns:
        case -> side -> results in order.
    """
    results: dict[str, dict[str, list[Result]]] = {case: {side: [] for side in sides} for case, sides in works.items()}
    for repetition in range(repetitions):
        for case, sides in works.items():
            for side in list(sides)[:: 1 if repetition % 2 == 0 else -1]:
                found = run(side, sides[side])
                results[case][side].append(found)
                if figure is not None:
                    say(f"{case}: {side} {figure(found)}")
    return results


def in_turns(ways: Mapping[Any, Callable[[], Result]], repetitions: int) -> dict[Any, list[Result]]:
    """Runs all ways in this process, in turns, and returns way -> results; the first run of each warms up."""
    runs: dict[Any, list[Result]] = {way: [] for way in ways}
    for _ in range(repetitions + 1):
        for way, run in ways.items():
            runs[way].append(run())
    return {way: found[1:] for way, found in runs.items()}


def medians(runs: Sequence[Mapping[str, Any]], digits: int | None = None, scale: float = 1) -> dict[str, Any]:
    """Returns the median of each figure over the runs, times `scale`."""
    found = {name: scale * median(run[name] for run in runs) for name in runs[0]}
    return found if digits is None else {name: round(value, digits) for name, value in found.items()}


def environment() -> dict[str, Any]:
    """Returns the machine (no name, no path), the packages' versions and the date."""
    import torch

    from lit_instruct.machine import cpu_cores, memory_bytes, package_versions

    memory = memory_bytes()
    machine: dict[str, Any] = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor() or None,
        "cores": cpu_cores(),
        "torch_threads": torch.get_num_threads(),
        "memory_gb": None if memory is None else round(memory / 1e9, 1),
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
    """Writes `results` as JSON, atomically, with its `environment`; returns the file, which is `results_file(path)`."""
    content = json.dumps({"environment": environment(), **results}, indent=2) + "\n"
    target = results_file(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(target) as scratch:
        scratch.write_text(content, encoding="utf-8")
    return target


def write_part(path: str | Path, name: str | None, part: dict[str, Any]) -> Path:
    """Writes one part of the results, or all where `name` is None; returns the file, which is `results_file(path)`.

    Other parts stay, with the environment that they were measured in.
    """
    if name is None:
        return write_results(path, part)
    target = results_file(path)
    earlier = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    origin = earlier.pop("environment", {})
    earlier.pop(name, None)
    others = {other: {"environment": origin, **content} for other, content in earlier.items()}
    return write_results(path, {name: part, **others})


def results_file(path: str | Path) -> Path:
    """Returns where a file of results lies: a bare name is in benchmarks/results."""
    path = Path(path)
    return RESULTS / path if path.parent == Path() else path


def reset_peak() -> None:
    """Resets the peak of resident memory, if the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Returns the peak of this process's resident memory, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _kilobytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """Returns this process's resident memory in bytes; its peak if the system does not say."""
    return _kilobytes("VmRSS") or peak_bytes()


def _kilobytes(name: str) -> int:
    return int((_field("/proc/self/status", name) or "0").split()[0]) * 1024


def _field(path: str, name: str) -> str | None:
    """The value of the line `NAME: VALUE` of a file; None without file or line."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            field, _, value = line.partition(":")
            if field.strip() == name:
                return value.strip()
    return None


def show(names: Iterable[str], found: Mapping[str, Any]) -> None:
    """Prints TABLES of results that were just measured."""
    from rich.console import Console
    from rich.table import Table

    for name in names:
        head, *rows = TABLES[name][1](found)
        shown = Table(*map(str, head), title=name)
        for row in rows:
            shown.add_row(*map(str, row))
        Console().print(shown)
