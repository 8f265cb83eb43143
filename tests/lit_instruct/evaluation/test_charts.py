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


def test_a_chart_of_nothing_is_none() -> None:
    assert charts.line_chart("key", "title", "step", [Series("a", charts.PPO, [], [])]) is None


def test_many_points_get_a_running_mean() -> None:
    x = [float(i) for i in range(100)]
    few = charts.line_chart("key", "title", "step", [Series("a", charts.PPO, x[:10], x[:10])])
    many = charts.line_chart("key", "title", "step", [Series("a", charts.PPO, x, x)])
    assert few is not None
    assert many is not None
    assert "opacity: 0.25" not in few
    assert "opacity: 0.25" in many
