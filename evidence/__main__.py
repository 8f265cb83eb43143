"""`python -m evidence`: measures findings, or resumes measuring them, and writes results and pages."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from evidence import RESULTS, ROOT, findings, page
from evidence.context import Context
from evidence.measuring import Measuring, say
from lit_instruct.command_line.quiet import quieten
from lit_instruct.errors import UserError
from lit_instruct.progress import in_words
from lit_instruct.running.interrupts import EXIT_CODE


def main(words: Sequence[str] | None = None) -> int:
    """Measures the findings that are named, or all; returns the exit status: 0 if all were reached, else 2."""
    quieten()
    given = parse(words)
    measuring = measuring_of(given)
    if given.list:
        listed(given.findings, measuring)
        return 0
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        not_reached = measuring.all(given.findings)
        for path in page.write_pages(measuring.results, measuring.context.runs):
            say(f"written to {path}")
    except UserError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("interrupted; the same command resumes it")
        return EXIT_CODE
    finally:
        signal.signal(signal.SIGTERM, before)
    for name, reason in not_reached.items():
        say(f"not reached: {name}: {reason}")
    return 2 if not_reached else 0


def parse(words: Sequence[str] | None = None) -> Namespace:
    """Returns the options; the findings are those that are named, or all."""
    known = findings.names()
    parser = ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("findings", nargs="*", metavar="finding", help=f"of {', '.join(known)}; all without one")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the trainings (default: 0 1 2; with --quick 0)")
    parser.add_argument("--runs", type=Path, help="folder of trainings and data (default: runs/evidence)")
    parser.add_argument("--results", type=Path, help="folder of results (default: recipes/evidence/results)")
    parser.add_argument("--source", choices=("packages", "hub"), default="packages", help="of public data")
    parser.add_argument("--base", default=Context.base, help="model: embedded name, folder or hub id")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the results go to <runs>/results")
    parser.add_argument("--list", action="store_true", help="print each finding, its question and the time it took")
    given = parser.parse_args(words)
    if unknown := sorted(set(given.findings) - set(known)):
        parser.error(f"no such finding: {', '.join(unknown)}; there are {', '.join(known)}")
    given.findings = list(dict.fromkeys(given.findings)) or known
    return given


def measuring_of(given: Namespace) -> Measuring:
    """Returns what measures with these options."""
    runs = (given.runs or ROOT / ("runs/evidence-quick" if given.quick else "runs/evidence")).resolve()
    seeds = given.seeds or ((0,) if given.quick else (0, 1, 2))
    results = given.results or (runs / "results" if given.quick else RESULTS)
    return Measuring(Context(runs, tuple(seeds), given.source, given.quick, given.base), results.resolve())


def listed(names: Sequence[str], measuring: Measuring) -> None:
    """Prints findings with their questions and the time that they took when they were last measured."""
    for name in names:
        seconds = measuring.recorded(name)
        spent = "not measured yet" if seconds is None else in_words(seconds)
        print(f"{name} ({spent}): {findings.module_of(name).QUESTION}")


def interrupt(number: int, frame: FrameType | None) -> None:
    """Ends the command as Ctrl-C does; the stage that is training is told by `in_own_process`.

    Raises:
        KeyboardInterrupt: always.
    """
    raise KeyboardInterrupt(signal.Signals(number).name)


if __name__ == "__main__":
    sys.exit(main())
