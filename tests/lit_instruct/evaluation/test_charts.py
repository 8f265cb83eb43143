"""Charts: reading sparse logs, and SVG that is safe and themeable."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from lit_instruct.evaluation import charts
from lit_instruct.evaluation.charts import Series


def test_read_metrics_of_sparse_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss,val/loss\n0,1,2.0,\n0,2,1.5,\n0,2,,1.75\n1,,1.0,\n1,4,nan,text\n")
    curves = charts.read_metrics(path)
    assert curves["train/loss"] == ([1.0, 2.0, 2.0], [2.0, 1.5, 1.0])
    assert curves["val/loss"] == ([2.0], [1.75])
    assert "ppo/kl" not in curves


def test_read_metrics_over_another_column(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,ppo/iteration,ppo/kl,val/kl\n2,,9.0,\n4,1,0.5,\n8,2,1.0,\n8,,,0.75\n")
    curves = charts.read_metrics(path, x="ppo/iteration")
    assert curves["ppo/kl"] == ([1.0, 2.0], [0.5, 1.0])  # what comes before the first x is left out
    assert curves["val/kl"] == ([2.0], [0.75])


def test_read_metrics_without_file_or_rows(tmp_path: Path) -> None:
    assert charts.read_metrics(tmp_path / "none.csv") == {}
    (tmp_path / "empty.csv").write_text("")
    assert charts.read_metrics(tmp_path / "empty.csv") == {}
    (tmp_path / "head.csv").write_text("step,train/loss\n")
    assert charts.read_metrics(tmp_path / "head.csv") == {}


def test_a_chart_is_escaped_xml_without_colours_sizes_or_links_of_its_own() -> None:
    series = [
        Series("<script>x</script> $a$ & $b$", charts.PPO, [0, 1], [1, 2]),
        Series("b", charts.SFT, [1], [2]),
    ]
    svg = charts.line_chart("key", '"<b>', "step", series)
    assert svg is not None
    assert "<script" not in svg
    assert "&lt;script&gt;x&lt;/script&gt; $a$ &amp; $b$" in svg
    assert "var(--ppo)" in svg
    assert "#0" not in svg
    head = svg[: svg.index(">", svg.index("viewBox"))]
    assert " width=" not in head
    assert 'aria-label="&#34;&lt;b&gt;"' in head
    assert "DejaVu" not in svg
    assert "purl.org" not in svg
    ET.fromstring(svg)


def test_a_chart_of_nothing_or_of_one_dot_is_none() -> None:
    dot = Series("b", charts.SFT, [1], [2])
    assert charts.line_chart("key", "title", "step", [Series("a", charts.PPO, [], [])]) is None
    assert charts.line_chart("key", "title", "step", [dot, dot]) is None
    assert charts.line_chart("key", "title", "step", [dot, Series("a", charts.PPO, [1, 2], [2, 1])]) is not None


def test_more_than_a_dozen_points_get_a_running_mean() -> None:
    x = [float(i) for i in range(100)]
    few = charts.line_chart("key", "title", "step", [Series("a", charts.PPO, x[:12], x[:12])])
    many = charts.line_chart("key", "title", "step", [Series("a", charts.PPO, x[:13], x[:13])])
    assert few is not None
    assert many is not None
    assert "opacity: 0.25" not in few
    assert "opacity: 0.25" in many


def test_the_running_mean_is_over_a_fifth_around_each_point() -> None:
    assert charts.running_mean([0.0, 0.0, 5.0, 0.0, 0.0]) == [5 / 3, 1.25, 1.0, 1.25, 5 / 3]
    smooth = charts.running_mean([float(i % 2) for i in range(100)])
    assert max(abs(value - 0.5) for value in smooth[10:-10]) < 0.03


def frontier(kl: dict[str, float], high: float = 0.5) -> dict[str, object]:
    interval = {name: {"mean": x, "ci_low": x - 0.5, "ci_high": high} for name, x in kl.items()}
    labels = {"base": "base", "sft": "SFT", "ppo": "PPO"}
    return {"kl": interval, "reward": dict.fromkeys(kl, interval["sft"]), "systems": labels, "pairs": [("ppo", "sft")]}


def test_a_negative_kl_is_drawn_at_zero() -> None:
    below = charts.frontier_chart(frontier({"base": 1.0, "sft": 0.0, "ppo": -0.4}), {})
    assert below is not None and below == charts.frontier_chart(frontier({"base": 2.0, "sft": 0.0, "ppo": -0.45}), {})


def test_no_frontier_of_a_single_system() -> None:
    assert charts.frontier_chart(frontier({"base": 1.0, "sft": 0.0}), {}) is None
    assert charts.frontier_chart({"systems": {"a": "a", "b": "b"}, "pairs": [("b", "a")]}, {}) is None


def test_systems_of_any_name_have_a_colour() -> None:
    named = {"systems": dict.fromkeys("abcd", ""), "pairs": [("b", "a"), ("c", "a"), ("d", "a")]}
    assert charts.system_colors(named) == {"a": charts.SFT, "b": charts.BEST, "c": charts.BASE, "d": charts.PPO}


def test_a_last_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,train/loss\r\n0,2.0\r\n1,1.5\r\n2,1")  # of 2,1.25
    assert charts.read_metrics(path) == {"step": ([0.0, 1.0], [0.0, 1.0]), "train/loss": ([0.0, 1.0], [2.0, 1.5])}
    path.write_bytes(b"step,train/loss\r\n0,2.0\r\n1,1.5\r\n2,1.25\r\n")
    assert charts.read_metrics(path)["train/loss"][1] == [2.0, 1.5, 1.25]


def test_thinned_curves_are_means_of_neighbours() -> None:
    curves = {"a": ([0.0, 1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 5.0, 7.0, 9.0]), "b": ([0.0], [2.0])}
    assert charts.thinned(curves, 3) == {"a": ([1.0, 3.0, 4.0], [2.0, 6.0, 9.0]), "b": ([0.0], [2.0])}
    assert charts.thinned(curves, 5) == curves
