"""The report's charts: matplotlib figures as inline SVG with the colours and fonts of the page around it."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_instruct.files import complete_lines

# Placeholder colours, replaced by CSS variables in the SVG so that the page's light and dark themes apply.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
BASE, SFT, BEST, PPO = "#040404", "#050505", "#060606", "#070707"
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", BASE: "base", SFT: "sft", BEST: "best", PPO: "ppo"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # real text: selectable, small, in the page's font
    "text.parse_math": False,  # a "$" in a use case is a dollar
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
_MANY_POINTS = 12
"""Most points that are drawn as they are, each with a marker."""


class Series(NamedTuple):
    """One line of a chart: a label, its colour, and points (x, y) in order."""

    label: str
    color: str
    x: list[float]
    y: list[float]
    dashed: bool = False


_INTERVAL = ("mean", "ci_low", "ci_high")
Curves = dict[str, tuple[list[float], list[float]]]


def read_metrics(path: Path, x: str = "step") -> Curves:
    """Returns column -> (x, y) of a CSVLogger's metrics.csv, whose rows are sparse.

    A row without its own x takes the last one seen. A missing file, empty cells, text and NaN are skipped without an
    error, and so is a last line that is still being written: the report shows what there is.
    """
    if not path.is_file():
        return {}
    curves: Curves = {}
    position = None
    with contextlib.suppress(csv.Error):  # damaged: what comes before it counts
        for row in csv.DictReader(complete_lines(path)):
            own = _number(row.get(x))
            position = own if own is not None else position
            if position is None:
                continue
            for name, cell in row.items():
                value = _number(cell)
                if name is not None and value is not None:
                    xs, ys = curves.setdefault(name, ([], []))
                    xs.append(position)
                    ys.append(value)
    return curves


def _number(cell: Any) -> float | None:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def thinned(curves: Curves, most: int) -> Curves:
    """Returns curves of at most `most` points: means over blocks of neighbours, all of one length but the last."""
    found: Curves = {}
    for name, (xs, ys) in curves.items():
        size = -(-len(xs) // most)
        starts = range(0, len(xs), max(1, size))
        found[name] = (
            [xs[min(i + size, len(xs)) - 1] for i in starts],
            [float(np.mean(ys[i : i + size])) for i in starts],
        )
    return found


def line_chart(key: str, title: str, x_label: str, series: Sequence[Series], whole_x: bool = False) -> Markup | None:
    """Draws lines over training, with `whole_x` over numbers; None if every series has less than two points."""
    drawn = [one for one in series if one.x]
    if not any(len(one.x) > 1 for one in drawn):
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3.7, 2.3)
        for one in drawn:
            _draw_line(axes, one)
        axes.set_xlabel(x_label)
        axes.margins(x=0.02)
        if whole_x:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(drawn) > 1:
            legend(axes, len(drawn))
        return as_svg(figure, key, title)


def _draw_line(axes: Axes, one: Series) -> None:
    style = "--" if one.dashed else "-"
    if len(one.x) <= _MANY_POINTS:
        axes.plot(one.x, one.y, color=one.color, label=one.label, linestyle=style, marker="o", markersize=3.5)
        return
    # Noisy points are drawn faintly under their running mean.
    axes.plot(one.x, one.y, color=one.color, alpha=0.25, linewidth=0.9)
    axes.plot(one.x, running_mean(one.y), color=one.color, label=one.label, linestyle=style)


def running_mean(values: Sequence[float]) -> list[float]:
    """Returns the mean of each value and its neighbours: a fifth of the values, at least 5, fewer at both ends."""
    reach = max(5, len(values) // 5) // 2
    return [float(np.mean(values[max(0, i - reach) : i + reach + 1])) for i in range(len(values))]


def system_colors(report: dict[str, Any]) -> dict[str, str]:
    """Returns the colour of each system: those of a run have their own, others take turns."""
    ours, theirs = report["pairs"][-1]
    fixed = {"base": BASE, theirs: SFT, ours: PPO, "sft": SFT, "ppo": PPO}
    fixed |= {name: BEST for name in report["systems"] if name.startswith("best_of_")}
    turns = itertools.cycle((BEST, BASE))
    return {name: fixed[name] if name in fixed else next(turns) for name in report["systems"]}


def frontier_chart(report: dict[str, Any], ppo: Curves) -> Markup | None:
    """Draws reward-model score against KL: a policy's path in training, and the systems on the prompts.

    The x axis is sqrt(KL), as in Gao et al. 2022 (arXiv 2210.10760), which spreads the beginning. An estimate below 0
    is drawn at 0: a KL is never negative. None if fewer than two systems have both figures.

    Args:
        report: what `evaluate` returns.
        ppo: the policy's log; {} draws no path.
    """
    colors, kls, rewards = system_colors(report), report.get("kl", {}), report.get("reward", {})
    shown = [name for name in report["systems"] if name in kls and name in rewards and name != "base"]
    if len(shown) < 2:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.9, 4.1)
        way = [(max(0.0, kl), reward) for kl, reward in _paired(ppo, "ppo/kl", "ppo/reward")]
        axes.set_xscale("function", functions=(_signed_root, _signed_square))
        if way:
            kl, reward = zip(*way, strict=True)
            axes.plot(kl, reward, color=PPO, alpha=0.35, linewidth=1.0, label="PPO, training")
            axes.scatter(kl, reward, color=PPO, alpha=0.35, s=9, linewidths=0)
        for i, name in enumerate(shown):
            at = {figure: max(0.0, value) for figure, value in kls[name].items() if figure in _INTERVAL}
            style: dict[str, Any] = {"color": colors[name], "marker": "sDo^v"[i % 5], "markersize": 6}
            style |= {"linestyle": "none", "elinewidth": 1.2, "label": report["systems"][name]}
            axes.errorbar(at["mean"], rewards[name]["mean"], whiskers(rewards[name]), whiskers(at), **style)
        axes.set_xlabel("KL to SFT, nats per response (square-root scale)")
        axes.set_ylabel("reward-model score")
        axes.set_xlim(left=0.0)
        legend(axes, 2)
        return as_svg(figure, "frontier", "Reward-model score against KL to the SFT model")


def _paired(curves: Curves, x: str, y: str) -> list[tuple[float, float]]:
    """Points of two columns that were logged at the same position."""
    ys = dict(zip(*curves.get(y, ([], [])), strict=True))
    return [(value, ys[at]) for at, value in zip(*curves.get(x, ([], [])), strict=True) if at in ys]


def _signed_root(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.sqrt(np.abs(values))


def _signed_square(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.square(values)


def case_chart(report: dict[str, Any], measure: str = "labeler") -> Markup:
    """Draws scores by use case: a bar for each system but the base, unless that is compared, with 95 % intervals."""
    judge = report["judge"] if measure == "labeler" else measure
    colors, compared = system_colors(report), {name for pair in report["pairs"] for name in pair}
    systems = [name for name in report["systems"] if name != "base" or name in compared]
    cases = sorted(report["by_use_case"].items(), key=lambda item: (-item[1]["prompts"], item[0]))
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.9, 0.9 + 0.14 * len(systems) * len(cases))
        thick = 0.78 / len(systems)
        for row, name in enumerate(systems):
            figures = [case[measure][name] for _, case in cases]
            axes.barh(
                [i + (row - (len(systems) - 1) / 2) * thick for i in range(len(cases))],
                [one["mean"] for one in figures],
                height=thick * 0.88,
                color=colors[name],
                label=report["systems"][name],
                xerr=np.hstack([whiskers(one) for one in figures]),
                error_kw={"ecolor": INK, "elinewidth": 0.9, "alpha": 0.7},
            )
        axes.set_yticks(range(len(cases)), [f"{shortened(name)} ({case['prompts']})" for name, case in cases])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_xlabel(f"{judge} score, 95 % interval (number of prompts)")
        legend(axes, 3)
        return as_svg(figure, f"cases-{judge.replace(' ', '-')}", f"Mean {judge} score by use case")


def shortened(name: str, length: int = 24) -> str:
    """Returns a name on one line, truncated to `length` characters."""
    line = " ".join(name.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def whiskers(interval: dict[str, float]) -> np.ndarray:
    """Returns the error bars of an interval {mean, ci_low, ci_high}: (2, 1), below and above the mean."""
    below, above = interval["mean"] - interval["ci_low"], interval["ci_high"] - interval["mean"]
    return np.array([[max(0.0, below)], [max(0.0, above)]])


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns an empty chart without a background; the size is in inches."""
    figure = Figure(
        figsize=(width, height), layout="constrained"
    )  # not pyplot, which has global state and needs a display
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.ticklabel_format(useOffset=False)
    return figure, axes


def legend(axes: Axes, columns: int) -> None:
    """Adds a legend above the chart."""
    spacing: dict[str, Any] = {"borderaxespad": 0.2, "handlelength": 1.5, "columnspacing": 1.2}
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, **spacing)


def as_svg(figure: Figure, key: str, title: str) -> Markup:
    """Returns the figure as an <svg> element without size, fonts or colours of its own."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": key, "svg.id": key}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    label = Markup.escape(title)
    text = re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" ', text, count=1)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"font-family: [^;\"]*; ", "", text)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # the same ids in every chart
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var(--{variable})")
    return Markup(text)
