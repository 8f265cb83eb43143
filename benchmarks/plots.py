"""The style of the benchmarks' charts, which are PNG files beside the JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_instruct.files import replacing_file

COLORS = ("#1f6fb4", "#2a9d5c", "#c2571a", "#7a4fa3")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
}


def panels(count: int, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """Returns a figure with `count` charts in a row."""
    with matplotlib.rc_context(STYLE):
        # A Figure of its own instead of pyplot: no global state, no window system.
        figure = Figure(figsize=(3.9 * count, height), layout="constrained")
        return figure, list(np.atleast_1d(figure.subplots(1, count)))


def save(figure: Figure, path: Path) -> None:
    """Writes a figure atomically."""
    with replacing_file(path) as scratch, matplotlib.rc_context(STYLE):
        figure.savefig(scratch, format="png", dpi=130, metadata={"Software": None})
