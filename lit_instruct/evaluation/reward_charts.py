"""Charts of a reward model: calibration, accuracy by group, and reward against length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup

from lit_instruct.evaluation.charts import BEST, INK, MUTED, STYLE, as_svg, legend, new_figure, shortened, whiskers

SHOWN_POINTS = 1500
"""Most dots in the scatter plot; more make the page larger but not clearer."""
MEANS = 8
"""Groups of similar length whose means form the line through the scatter plot."""


def reliability_chart(bins: Sequence[Mapping[str, Any]]) -> Markup:
    """Accuracy against confidence; on the diagonal the probabilities are calibrated."""
    total = sum(one["pairs"] for one in bins)
    confidence = [one["confidence"] for one in bins]
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.9, 3.6)
        axes.bar(
            [(one["low"] + one["high"]) / 2 for one in bins],
            [one["pairs"] / total for one in bins],
            width=[0.9 * (one["high"] - one["low"]) for one in bins],
            color=MUTED,
            alpha=0.3,
            label="share of the pairs",
        )
        axes.plot([0.5, 1.0], [0.5, 1.0], color=MUTED, linestyle="--", linewidth=1.0, label="calibrated")
        accuracy = [one["accuracy"] for one in bins]
        axes.plot(confidence, accuracy, color=BEST, marker="o", markersize=4.5, label="agreement")
        axes.set_xlim(0.5, 1.0)
        axes.set_ylim(0.0, 1.02)
        axes.set_xlabel("confidence, sigmoid(|difference of the rewards|)")
        axes.set_ylabel("share in the labeler's order")
        legend(axes, 3)
        return as_svg(figure, "reliability", "Agreement with the labeler against confidence")


def accuracy_chart(key: str, label: str, groups: Mapping[str, Mapping[str, Any]], overall: float) -> Markup:
    """Pair accuracy of each group with 95 % intervals; lines at chance (1/2) and at the overall accuracy."""
    accuracies = list(groups.values())
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.9, 0.9 + 0.28 * len(groups))
        axes.errorbar(
            [one["value"] for one in accuracies],
            range(len(groups)),
            xerr=np.hstack([whiskers({**one, "mean": one["value"]}) for one in accuracies]),
            color=BEST,
            marker="o",
            markersize=5,
            linestyle="none",
            elinewidth=1.3,
        )
        axes.axvline(0.5, color=MUTED, linewidth=0.9, linestyle=":", label="chance")
        axes.axvline(overall, color=INK, linewidth=0.9, linestyle="--", label="all pairs")
        axes.set_yticks(range(len(groups)), [f"{shortened(name)} ({one['pairs']})" for name, one in groups.items()])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel("pair accuracy, 95 % interval (number of pairs)")
        legend(axes, 2)
        return as_svg(figure, key.replace("_", "-"), f"Pair accuracy by {label}")


def length_chart(rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]) -> Markup:
    """Reward of each response against its tokens, and the mean over groups of similar length."""
    reward = np.concatenate([np.asarray(row, dtype=np.float64) for row in rewards])
    tokens = np.concatenate([np.asarray(row) for row in lengths])
    every = max(1, len(reward) // SHOWN_POINTS)
    groups = np.array_split(tokens.argsort(kind="stable"), min(MEANS, len(tokens)))
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.9, 3.6)
        axes.scatter(tokens[::every], reward[::every], color=BEST, alpha=0.3, s=8, linewidths=0, label="responses")
        axes.plot(
            [tokens[group].mean() for group in groups],
            [reward[group].mean() for group in groups],
            color=INK,
            linewidth=1.3,
            label="mean of similar lengths",
        )
        axes.set_xlabel("length of the response, tokens")
        axes.set_ylabel("reward")
        legend(axes, 2)
        return as_svg(figure, "length", "Reward against length of the response")
