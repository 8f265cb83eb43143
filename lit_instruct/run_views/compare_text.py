"""The comparison of runs in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lit_instruct.evaluation.page import number, signed
from lit_instruct.evaluation.training_charts import KINDS
from lit_instruct.progress import in_words
from lit_instruct.run_views.shown import digits_of
from lit_instruct.terminal import printable


def tables(found: Mapping[str, Any]) -> RenderableType:
    """Returns what the terminal shows of `compared_runs`."""
    parts: list[RenderableType] = []
    for stage, one in reversed(found["stages"].items()):
        parts += [Rule(Text(KINDS[stage][0], "bold"), align="left")]
        parts += [Text(printable(f"{name}: {state['sentence']}")) for name, state in one["states"].items()]
        parts += [Text(printable(f"! {said}"), "yellow") for said in one["wrong"]]
        parts += [_table("figure", one["states"], figure_rows(one))]
        parts += _measures("validation samples", one.get("validation", {}))
        options = {option: list(map(shown, row.values())) for option, row in one["options"].items()}
        parts += (
            [_table("option that differs", one["states"], options)] if options else [Text("no option differs", "dim")]
        )
    for system, measures in found["evaluation"].items():
        parts += [Rule(Text(printable(f"evaluation: {system}"), "bold"), align="left"), *_measures("measure", measures)]
    return Group(*parts, *(Text(printable(note), "dim") for note in found["notes"]))


def figure_rows(stage: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the final figures of a stage in words: name -> one for each run."""
    rows = {column: [_number(value) for value in row.values()] for column, row in stage["figures"].items()}
    rows["time"] = [in_words(value) if value is not None else "" for value in stage["seconds"].values()]
    rows["peak memory"] = [
        f"{number(value)} GB" if value is not None else "" for value in stage["peak_memory_gb"].values()
    ]
    return {name: row for name, row in rows.items() if any(row)}


def measure_rows(measures: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yields measure, run, mean with interval, difference with interval, and a note, for each measure and run."""
    for measure, one in measures.items():
        for run, interval in one["runs"].items():
            difference = one.get("differences", {}).get(run)
            gain = f"{_interval(difference, signed)}, {difference['prompts']} prompts" if difference else ""
            note = one.get("note", "") if run == next(iter(one["runs"])) else ""
            yield measure, run, f"{_interval(interval, number)}, {interval['prompts']} prompts", gain, note


def _measures(title: str, measures: Mapping[str, Any]) -> list[RenderableType]:
    if not measures:
        return []
    table = Table(box=None, pad_edge=False, header_style="dim")
    first = next((one["minus"] for one in measures.values() if "minus" in one), None)
    heads = [title, "run", "mean, 95 % interval", f"minus {first}, paired" if first is not None else ""]
    for head in heads:
        table.add_column(Text(printable(head)))
    for measure, run, mean, gain, note in measure_rows(measures):
        table.add_row(*(Text(printable(cell)) for cell in (measure, run, mean, gain or note)))
    return [table]


def _table(title: str, runs: Sequence[str] | Mapping[str, Any], rows: Mapping[str, Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(title, no_wrap=True)
    for run in runs:
        table.add_column(Text(printable(run)), justify="right", overflow="fold")
    for name, cells in rows.items():
        table.add_row(Text(printable(name)), *(Text(printable(cell)) for cell in cells))
    return table


def shown(value: Any) -> str:
    """Returns the value of an option as a user writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: float | None) -> str:
    return "" if value is None else number(value, digits_of(value))


def _interval(one: Mapping[str, float], formatted: Any) -> str:
    digits = digits_of(one["mean"])
    low, high = (formatted(one[end], digits) for end in ("ci_low", "ci_high"))
    return f"{formatted(one['mean'], digits)} ({low} to {high})"
