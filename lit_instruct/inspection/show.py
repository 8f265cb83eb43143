"""Prints the report of `lit-instruct data inspect`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lit_instruct.terminal import printable

BAR = 40
"""Characters of the longest bar."""
LONGEST = 600
"""Most characters shown of a span."""
OPEN, CLOSE = "⟦", "⟧"
"""Around what is trained on, since not every terminal shows colours."""


def show(report: dict[str, Any], console: Console | None = None) -> None:
    """Prints the report.

    Args:
        report: of `lit_instruct.inspection.inspect`.
        console: where to print; None is standard output.
    """
    console = console or Console(highlight=False)

    def part(title: str, content: Table) -> None:
        console.print(Text(printable(f"\n{title}"), "bold"), content, sep="\n")

    part(f"{report['path']}: {report['kind']}", _overview(report))
    for what, lengths in report["tokens"].items():
        figures = f"mean {lengths['mean']}, median {lengths['median']}, 95% {lengths['p95']}, longest {lengths['max']}"
        part(f"Tokens of the {what}: {figures}", _bars(lengths["histogram"]))
    if "k" in report:
        part("Responses to a prompt", _counts("K", "rows", report["k"]))
    if report.get("use_cases"):
        shares = {name: f"{share:.1%}" for name, share in report["use_cases"].items()}
        part("Use cases", _counts("use case", "share", shares))
    if "hygiene" in report:
        part("Hygiene: what each step would remove from these prompts", _hygiene(report["hygiene"]))
    console.print()
    for one in report["examples"]:
        console.print(_example(one))


def _overview(report: dict[str, Any]) -> Table:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column()

    def add(name: str, value: str) -> None:
        table.add_row(name, Text(printable(value)))

    for source, formats in report["formats"].items():
        add("format", ", ".join(formats) + (f"  ({source})" if len(report["formats"]) > 1 else ""))
    add("rows", f"{report['rows']:,}")
    bad = report["bad_rows"]
    if bad["count"]:
        place = f", written to {bad['written_to']}" if bad["written_to"] else " (--bad_rows=FILE writes them to a file)"
        add("bad rows", f"{bad['count']:,}{place}; the first: {bad['first']}")
    if "total_tokens" in report:
        add("tokens", f"{report['total_tokens']:,}")
        add("blocks", ", ".join(f"{count:,} of {size}" for size, count in report["blocks"].items()))
        return table
    limit = report["length_limit"]
    add("too long", f"{limit['rows_over']:,} rows over {limit['tokens']} tokens")
    duplicates = report["duplicates"]
    add("duplicates", f"{duplicates['prompts']:,} repeated prompts, {duplicates['rows']:,} repeated rows")
    cut = report["cut_off"]
    if cut["responses"]:
        what = f"{cut['responses']:,} of {cut['of']:,} responses seem to stop inside a sentence"
        add("cut off", f"{what}; training adds the end token to them too")
    if report["users"]:
        add("users", f"{report['users']:,}")
    add("user turns", ", ".join(f"{count:,} rows with {turns}" for turns, count in report["user_turns"].items()))
    if "ties" in report:
        ties = report["ties"]
        add("pairs", f"{ties['pairs']:,}, of which {ties['tied_pairs']:,} are ties, which are not trained on")
        add(
            "tied rows", f"{ties['rows_with_ties']:,} with a tie; {ties['rows_all_tied']:,} all ties, which are dropped"
        )
        add("identical", f"{ties['identical_responses']:,} responses that repeat another one in the same row")
    return table


def _bars(histogram: list[dict[str, int]]) -> Table:
    table = Table(show_header=False, box=None)
    most = max((one["count"] for one in histogram), default=0)
    for one in histogram:
        bar = "█" * round(BAR * one["count"] / most) or ("▏" if one["count"] else "")
        table.add_row(f"{one['from']:>6} - {one['to']}", f"{one['count']:,}", bar)
    return table


def _counts(name: str, what: str, counts: dict[str, Any]) -> Table:
    table = Table(name, what)
    for value, count in counts.items():
        table.add_row(Text(printable(str(value))), str(count))
    return table


def _hygiene(steps: list[dict[str, Any]]) -> Table:
    table = Table("step", "--data.hygiene", "removes", "why, for the first")
    for step in steps:
        why = "\n".join(f"{one['where']}: {one['why']}" for one in step["examples"])
        table.add_row(
            step["name"], step["option"], f"{step['dropped']:,}" if step["asked"] else "-", Text(printable(why))
        )
    return table


def _example(one: dict[str, Any]) -> Panel:
    text = Text()
    for piece in one["pieces"]:
        shown = printable(piece["text"])
        if len(shown) > LONGEST:
            half = LONGEST // 2
            shown = f"{shown[:half]} … {shown[-half:]}"
        text.append(f"{OPEN}{shown}{CLOSE}" if piece["trained"] else shown, "bold green" if piece["trained"] else "dim")
    return Panel(text, title=Text(printable(f"{one['where']}: {one['title']}")), title_align="left")
