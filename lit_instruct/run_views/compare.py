"""`lit-instruct compare`: several runs beside each other, in the terminal, as a page and as JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lit_instruct.files import json_text, write_text
from lit_instruct.run_views.compare_text import tables
from lit_instruct.run_views.comparison import compared_runs, read_runs
from lit_instruct.terminal import printable


@dataclass
class CompareOptions:
    """Compares runs: curves over each other, final figures with intervals, options that differ.

    The runs are the first words: `lit-instruct compare runs/a runs/b`. Differences are to the first one.

    Args:
        runs: folders of the runs.
        out: page to write, such as compare.html, with the curves over each other.
        json: file for all figures and options as JSON; - prints it, and nothing else.
    """

    runs: list[str]
    out: str | None = None
    json: str | None = None


def compare(options: CompareOptions) -> None:
    """Prints the comparison, and writes what is asked for.

    Raises:
        UserError: fewer than two runs, no such run, no stage in common, or a file cannot be written.
    """
    folders, logs = read_runs(options.runs)
    found = compared_runs(folders, logs, time.time())
    if options.out is not None:
        from lit_instruct.run_views.compare_page import build_page

        write_text(Path(options.out), build_page(found, logs), "--out")
    if options.json == "-":
        print(json_text(found), end="")
        return
    if options.json is not None:
        write_text(Path(options.json), json_text(found), "--json")
    Console().print(tables(found))
    for written in filter(None, (options.out, options.json)):
        print(printable(f"written to {written}"))
