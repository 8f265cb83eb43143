"""Charts from literal data."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from evidence.charts import as_file, chart

NAMES = {"title": "Score <by> size", "x": "rows", "y": "score"}
POINTS = [[50, 0.2], [100, 0.4], [200, 0.5]]


def texts(svg: str) -> str:
    return " ".join(text.strip() for text in ElementTree.fromstring(svg).itertext() if text.strip())


@pytest.mark.parametrize(
    "plot",
    [
        {"lines": [{"name": "PPO", "points": POINTS}, {"name": "SFT", "points": POINTS}]},
        {"lines": [{"name": "PPO", "points": [[x, y, y - 0.1, y + 0.1] for x, y in POINTS]}]},
        {"lines": [{"name": "PPO", "points": POINTS}], "fits": [{"name": "PPO", "points": POINTS}]},
    ],
)
def test_lines(plot: dict[str, object]) -> None:
    svg = chart(NAMES | plot, "one")
    shown = texts(svg)
    assert "rows" in shown and "score" in shown
    assert ("SFT" in shown) == (len(plot["lines"]) > 1)  # type: ignore[arg-type]
    assert "var(--ppo)" in svg and 'aria-label="Score &lt;by&gt; size"' in svg


def test_bars_have_a_label_for_each_group() -> None:
    points = [["PPO", 0.7, 0.6, 0.8], ["best-of-n", 0.6, 0.5, 0.7]]
    shown = texts(chart(NAMES | {"bars": [{"name": "one", "points": points}, {"name": "two", "points": points}]}, "b"))
    assert all(word in shown for word in ("PPO", "best-of-n", "one", "two", "score"))


def test_the_same_data_make_the_same_chart() -> None:
    plot = NAMES | {"lines": [{"name": "PPO", "points": POINTS}]}
    assert chart(plot, "one") == chart(plot, "one")


def test_a_file_has_its_own_colours() -> None:
    text = as_file(chart(NAMES | {"lines": [{"name": "PPO", "points": POINTS}]}, "one"))
    root = ElementTree.fromstring(text)
    assert root.get("width") == "620" and root.get("viewBox")
    style = next(one for one in root.iter() if one.tag.endswith("style"))
    used = set(re.findall(r"var\(--(\w+)\)", text))
    assert used and all(f"--{name}:" in (style.text or "") for name in used)
    assert "prefers-color-scheme: dark" in (style.text or "")
