"""A run in the terminal: a table of figures with sparklines for each stage, its state, warnings and two samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lit_instruct.evaluation.page import number
from lit_instruct.evaluation.training_charts import KINDS
from lit_instruct.run_views.shown import DIAGNOSTICS, Figure, digits_of, figures_of, samples_of, warnings_of
from lit_instruct.run_views.stage_log import StageLog
from lit_instruct.run_views.state import Name, state_of
from lit_instruct.terminal import printable

BLOCKS = "▁▂▃▄▅▆▇█"
NARROWEST, WIDEST = 8, 24
"""Characters of a sparkline."""
OTHERS = 54
"""Columns of the terminal that names and numbers take."""
STYLES: dict[Name, str] = {
    "training": "bold cyan",
    "finished": "bold green",
    "failed": "bold red",
    "silent": "bold red",
}
SAMPLES = 2


def frame(run: Path, logs: Sequence[StageLog], now: float, width: int) -> RenderableType:
    """Returns what a terminal shows of a run, the last stage first.

    Args:
        run: its folder.
        logs: its stages.
        now: seconds since 1970.
        width: of the terminal.
    """
    spark = min(WIDEST, max(NARROWEST, (width - OTHERS) // 2))
    return Group(*(_stage(run, log, now, spark) for log in reversed(logs)))


def _stage(run: Path, log: StageLog, now: float, spark: int) -> RenderableType:
    state = state_of(log, now)
    title = Text(printable(f"{KINDS[log.stage][0]}: {run}"), style="bold")
    parts: list[RenderableType] = [
        Rule(title, align="left"),
        Text(printable(state.sentence), STYLES.get(state.name, "bold")),
    ]
    parts += [Text(printable(state.note), style="dim")] if state.note else []
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, align in (("", "left"), ("training", "right"), ("", "left"), ("validation", "right"), ("", "left")):
        table.add_column(name, justify=align, no_wrap=True)  # type: ignore[arg-type]
    for one in [*figures_of(log), *figures_of(log, DIAGNOSTICS[log.stage])]:
        table.add_row(one.title, *_columns(one, spark))
    parts += [table] if table.row_count else []
    if (peak := (log.progress or log.record or {}).get("peak_memory_gb")) is not None:
        parts.append(Text(f"peak memory {number(peak)} GB", style="dim"))
    parts += [Text(printable(f"! {warning}"), style="yellow") for warning in warnings_of(log)]
    return Group(*parts, *map(_sample, samples_of(log)[:SAMPLES]))


def _columns(one: Figure, spark: int) -> list[Text]:
    cells = []
    for values in (one.training, one.validation):
        cells += [
            Text(number(values[-1], digits_of(values[-1])) if values else ""),
            Text(sparkline(values, spark), style="cyan"),
        ]
    return cells


def sparkline(values: Sequence[float], width: int) -> str:
    """Returns values as a line of at most `width` block characters, each the mean of as many neighbours."""
    size = -(-len(values) // width) if values else 1
    means = [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]
    if len(means) < 2:
        return ""
    low, high = min(means), max(means)
    spread = high - low
    return "".join(BLOCKS[round((len(BLOCKS) - 1) * (one - low) / spread) if spread else 3] for one in means)


def _sample(row: dict[str, Any]) -> RenderableType:
    figures = ", ".join(f"{name} {row[name]}" for name in ("reward", "kl", "length") if name in row)
    lines = [
        Text(
            printable(f"iteration {row['iteration']}: {one_line(row['prompt'])}"),
            style="dim",
            no_wrap=True,
            overflow="ellipsis",
        ),
        Text(printable(f"{one_line(row['response'])}  [{figures}]")),
    ]
    return Padding(Group(*lines), (1, 0, 0, 0))


def one_line(text: Any) -> str:
    """Returns a prompt (text or messages) or a response on one line."""
    if isinstance(text, list):
        text = " / ".join(str(turn.get("content", "")) if isinstance(turn, dict) else str(turn) for turn in text)
    return " ".join(str(text).split())
