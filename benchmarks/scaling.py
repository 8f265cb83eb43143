"""How our PPO scales: episodes per second and peak memory against batch, response length and model size.

`python -m benchmarks.scaling` writes benchmarks/results/scaling.json and scaling.png. The models have random weights;
every point is measured in a process of its own.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Command, Found, run_side, say
from benchmarks.ppo import prepared, work_of
from benchmarks.ppo_work import Workload
from benchmarks.precisions import first_run
from lit_instruct.models.embedded import NAME

AXES: dict[str, tuple[Any, ...]] = {
    "batch": (8, 16, 32, 64),
    "response_tokens": (16, 32, 64, 128),
    "model": ("7M", "27M", "70M"),
}
SIZES = {"7M": 7.5e6, "27M": 26.2e6, "70M": 70.3e6}
"""Weights of each model, of which 6, 16 and 25 million are in the embedding."""


@dataclass(frozen=True)
class Point:
    """What is run at one point of a curve; the defaults are where the curves cross."""

    batch: int = 32  # prompts per iteration
    response_tokens: int = 32  # per response
    model: str = "27M"  # of benchmarks.ppo_sides.RANDOM_MODELS


def points_of(axes: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Returns the points of all curves, each once: along every axis, the other axes at their defaults."""
    along = [replace(Point(), **{axis: value}) for axis, values in axes.items() for value in values]
    return list(dict.fromkeys(along))


def curves_of(axes: Mapping[str, Sequence[Any]], measured: Mapping[Point, Mapping[str, float]]) -> dict[str, Any]:
    """Returns axis -> figures of its points in order, each with its value on that axis."""
    return {
        axis: [{axis: value, **measured[replace(Point(), **{axis: value})]} for value in values]
        for axis, values in axes.items()
    }


def measure_at(point: Point, iterations: int, dtype: str) -> dict[str, float]:
    """Runs our PPO at a point in a process of its own."""
    workload = Workload(point.batch, point.response_tokens, 1, {})
    options = Namespace(device="cpu", micro_batch_size=8, quick=False)
    with prepared(point.model, [workload]) as start:
        work = work_of(options, start, workload, "ours") | {"iterations": iterations, "dtype": dtype}
        found = run_side("benchmarks.ppo_sides", "ours", work)
    seconds = found["seconds"]
    return {
        "episodes_per_second": round(point.batch / seconds, 3),
        "tokens_per_second": found["tokens_per_second"],
        "peak_gb": round(found["peak_memory_gb"], 3),
        "seconds": round(seconds, 3),
    }


def draw(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draws episodes per second, and peak memory on a second y axis, along each axis."""
    from benchmarks.plots import COLORS, panels, save

    names = {"batch": "prompts per iteration", "response_tokens": "tokens per response", "model": "weights, millions"}
    figure, charts = panels(len(curves))
    for chart, (axis, points) in zip(charts, curves.items(), strict=True):
        x = [SIZES[point[axis]] / 1e6 if axis == "model" else point[axis] for point in points]
        chart.plot(x, [point["episodes_per_second"] for point in points], "o-", color=COLORS[0])
        chart.set_ylim(bottom=0)
        chart.set_ylabel("episodes per second", color=COLORS[0])
        chart.set_xlabel(names[axis])
        memory = chart.twinx()
        memory.plot(x, [point["peak_gb"] for point in points], "s--", color=COLORS[2])
        memory.set_ylim(bottom=0)
        memory.set_ylabel("peak memory, GB", color=COLORS[2])
        memory.grid(visible=False)
    save(figure, path)


def measure(options: Namespace) -> Found:
    """Runs every point, and draws the curves."""
    axes = {axis: getattr(options, axis) for axis in AXES}
    options.dtype = options.dtype or first_run(NAME)
    measured = {}
    for point in points_of(axes):
        measured[point] = measure_at(point, options.iterations, options.dtype)
        say(f"{json.dumps(asdict(point))}: {json.dumps(measured[point])}")
    curves = curves_of(axes, measured)
    content = {
        "crossing": asdict(Point()),
        "lora": "r=16 on every linear layer",
        "inner_epochs": 1,
        "precision": options.dtype,
    }
    return Found({**content, "curves": curves}, "scaling.json", ("scaling",), chart=partial(draw, curves))


OPTIONS = {
    f"--{axis}": {"nargs": "+", "type": type(values[0]), "choices": values, "default": values}
    for axis, values in AXES.items()
} | {
    "--iterations": {"type": int, "default": 3, "help": "timed iterations per point"},
    "--dtype": {"choices": ("bf16", "fp32"), "help": "default: bf16, unless it is too slow here"},
}
main = Command("benchmarks.scaling", __doc__, measure, OPTIONS)

if __name__ == "__main__":
    raise SystemExit(main())
