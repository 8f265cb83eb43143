"""The scaling curves: which points there are, and how they become curves."""

from __future__ import annotations

from pathlib import Path

from benchmarks import scaling
from benchmarks.fill_tables import TABLES
from benchmarks.ppo_sides import RANDOM_MODELS
from benchmarks.scaling import AXES, SIZES, Point, curves_of, points_of


def test_every_point_once() -> None:
    axes = {"batch": (8, 32), "response_tokens": (32, 64), "model": ("27M",)}
    assert points_of(axes) == [Point(8, 32, "27M"), Point(32, 32, "27M"), Point(32, 64, "27M")]
    assert len(points_of(AXES)) == 9
    assert Point() in points_of(AXES)


def test_the_curves_cross_where_the_defaults_are() -> None:
    for axis, values in AXES.items():
        assert getattr(Point(), axis) in values


def test_the_models_are_those_of_the_benchmark() -> None:
    assert set(SIZES) == set(AXES["model"]) and set(SIZES) <= set(RANDOM_MODELS)


def test_curves_and_chart(tmp_path: Path) -> None:
    axes = {"batch": (8, 32), "response_tokens": (32,), "model": ("27M",)}
    figures = {"episodes_per_second": 1.0, "tokens_per_second": 2.0, "peak_gb": 3.0}
    found = curves_of(axes, dict.fromkeys(points_of(axes), figures))
    assert [point["batch"] for point in found["batch"]] == [8, 32]
    assert found["model"] == [{"model": "27M", **figures}]
    assert len(TABLES["scaling"][1]({"curves": found})) == 1 + 4
    scaling.draw(found, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
