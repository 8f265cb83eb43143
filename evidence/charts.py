"""Charts of results: SVG for the page, whose colours they take, and as files for Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from lit_instruct.evaluation.charts import BASE, BEST, INK, MUTED, PPO, SFT, STYLE, as_svg, legend, new_figure
from lit_instruct.evaluation.page import render

COLORS = (PPO, SFT, BEST, BASE, INK, MUTED)
MARKERS = "osD^vP"
WIDTH = 620
"""Of a chart that is a file of its own, in pixels."""

Plot = Mapping[str, Any]


def chart(plot: Plot, key: str) -> Markup:
    """Returns a chart as an <svg> element in the page's colours.

    Args:
        plot: title, x and y (labels of the axes), and at least one of
            lines: a list of {name, points}, with points [x, y] or [x, y, ci_low, ci_high];
            fits: the same, drawn without markers; if there are any, the points of lines are not connected;
            bars: a list of {name, points}, with points [label, y] or [label, y, ci_low, ci_high].
        key: of its own on the page.
    """
    with matplotlib.rc_context(STYLE):
        lines, fits, bars = (plot.get(kind, ()) for kind in ("lines", "fits", "bars"))
        labels = list(dict.fromkeys(str(point[0]) for one in bars for point in one["points"]))
        figure, axes = new_figure(4.9, 3.3 if not bars else 1.3 + 0.22 * len(labels) * len(bars))
        named = list(dict.fromkeys(one["name"] for one in (*lines, *fits, *bars)))
        style = {name: (COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(named)}
        for one in fits:
            axes.plot(*zip(*one["points"], strict=True), color=style[one["name"]][0])
        for one in lines:
            _line(axes, one, style[one["name"]], connected=not fits)
        if bars:
            _bars(axes, bars, labels, [style[one["name"]][0] for one in bars])
            axes.set_xlabel(plot["y"])
        else:
            axes.set_xlabel(plot["x"])
            axes.set_ylabel(plot["y"])
        if len(named) > 1:
            legend(axes, 3)
        return as_svg(figure, key, plot["title"])


def _line(axes: Axes, one: Plot, style: tuple[str, str], connected: bool) -> None:
    x, y, *ends = map(list, zip(*one["points"], strict=True))
    errors = np.abs(np.array(ends) - np.array(y)) if ends else None
    color, marker = style
    axes.errorbar(
        x,
        y,
        yerr=errors,
        color=color,
        label=one["name"],
        marker=marker,
        markersize=4 if connected else 3,
        linestyle="-" if connected else "none",
        elinewidth=1.0,
        alpha=1.0 if connected else 0.6,
    )


def _bars(axes: Axes, bars: Sequence[Plot], labels: Sequence[str], colors: Sequence[str]) -> None:
    thick = 0.78 / len(bars)
    for row, (one, color) in enumerate(zip(bars, colors, strict=True)):
        at = [labels.index(str(point[0])) + (row - (len(bars) - 1) / 2) * thick for point in one["points"]]
        _, y, *ends = map(list, zip(*one["points"], strict=True))
        errors = np.abs(np.array(ends) - np.array(y)) if ends else None
        named: dict[str, Any] = {"label": one["name"], "error_kw": {"ecolor": INK, "elinewidth": 0.9, "alpha": 0.7}}
        axes.barh(at, y, height=thick * 0.88, color=color, xerr=errors, **named)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=MUTED, linewidth=0.8)


def as_file(svg: str) -> str:
    """Returns a chart as an SVG file, with colours for light and dark pages of its own."""
    style = f"<style>{render('colors.css.jinja')}text {{ font-family: sans-serif }}</style>"
    head = re.compile(r"<svg [^>]*>")
    return head.sub(lambda found: found[0].replace("<svg ", f'<svg width="{WIDTH}" ', 1) + style, svg, count=1) + "\n"
