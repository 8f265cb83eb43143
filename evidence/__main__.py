"""`python -m evidence`: measures findings, or resumes measuring them, and writes recipes/evidence/results."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evidence import ROOT, findings
from evidence.context import Context
from evidence.result import Result, write_result
from lit_instruct.command_line.quiet import quieten
from lit_instruct.errors import UserError
from lit_instruct.files import write_text

RESULTS = ROOT / "recipes/evidence/results"
NAMES = sorted(module.name for module in pkgutil.iter_modules(findings.__path__))


def main(words: Sequence[str] | None = None) -> int:
    """Measures the findings that are named, or all; returns the exit status."""
    quieten()
    parser = ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("findings", nargs="*", metavar="finding", help=f"of {', '.join(NAMES)}; all without one")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the trainings (default: 0 1 2; with --quick 0)")
    parser.add_argument("--runs", type=Path, help="folder of trainings and data (default: runs/evidence)")
    parser.add_argument("--source", choices=("packages", "hub"), default="packages", help="of public data")
    parser.add_argument("--base", default=Context.base, help="model: embedded name, folder or hub id")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the results go to <runs>/results")
    given = parser.parse_args(words)
    if unknown := sorted(set(given.findings) - set(NAMES)):
        parser.error(f"no such finding: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    runs = (given.runs or ROOT / ("runs/evidence-quick" if given.quick else "runs/evidence")).resolve()
    context = Context(runs, given.seeds or ((0,) if given.quick else (0, 1, 2)), given.source, given.quick, given.base)
    failed = 0
    for name in given.findings or NAMES:
        try:
            result = measured(name, context)
        except UserError as error:
            print(f"evidence: {name}: error: {error}", file=sys.stderr, flush=True)
            failed = 2
            continue
        place = write_result(result, runs / "results" if given.quick else RESULTS)
        print(f"{name}: {result.verdict}\n{place}", flush=True)
    return failed


def measured(name: str, context: Context) -> Result:
    """Returns a finding, with the seconds of earlier calls that were interrupted added to its own."""
    clock = context.runs / name / "seconds.json"
    before = json.loads(clock.read_text(encoding="utf-8")) if clock.is_file() else 0.0
    started = time.monotonic()
    try:
        found = importlib.import_module(f"evidence.findings.{name}").measure(context)
    finally:
        seconds = round(before + time.monotonic() - started, 1)
        clock.parent.mkdir(parents=True, exist_ok=True)
        write_text(clock, json.dumps(seconds), "--runs")
    return replace(found, seconds=seconds)


if __name__ == "__main__":
    sys.exit(main())
