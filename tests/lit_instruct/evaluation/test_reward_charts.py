"""Charts about a reward model."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from lit_instruct.evaluation import reward_charts as charts

ACCURACY = {"value": 0.7, "ci_low": 0.6, "ci_high": 0.8, "pairs": 10}


def test_groups_are_named_and_escaped() -> None:
    svg = charts.accuracy_chart("by_use_case", "use <case>", {"<i>$a$": ACCURACY, "b": ACCURACY}, 0.65)
    ET.fromstring(svg)
    assert "&lt;i&gt;$a$ (10)" in svg
    assert 'aria-label="Pair accuracy by use &lt;case&gt;"' in svg


def test_one_bin_is_enough() -> None:
    only = {"low": 0.5, "high": 0.55, "pairs": 3, "confidence": 0.51, "accuracy": 1.0}
    svg = charts.reliability_chart([only])
    ET.fromstring(svg)
    assert "calibrated" in svg


def test_the_scatter_plot_stays_small() -> None:
    few = charts.length_chart([[0.1, 0.2]], [[3, 4]])
    many = charts.length_chart([[0.1 * i for i in range(9)]] * 2000, [list(range(9))] * 2000)
    ET.fromstring(few)
    assert few.count("<use") < many.count("<use") <= charts.SHOWN_POINTS + 100
