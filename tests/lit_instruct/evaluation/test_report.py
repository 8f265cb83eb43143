"""The page: safe, self-contained, and honest about direction."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lit_instruct.evaluation import report as page
from lit_instruct.evaluation.compare import evaluate
from lit_instruct.evaluation.options import EvalOptions
from tests.lit_instruct.evaluation.runs import fake_loaders, write_run


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = write_run(tmp_path_factory.mktemp("runs") / "de<b>mo")
    labelers = [f"lit_instruct.evaluation.labelers.{name}" for name in ("tone", "second_opinion")]
    options = EvalOptions(str(run), str(run / "prompts.jsonl"), labeler=labelers[0], second_labeler=labelers[1])
    evaluate(options, fake_loaders([]))
    return (run / "eval" / "report.html").read_text()


def test_text_from_data_and_models_is_escaped(html: str) -> None:
    assert "<script" not in html.lower()
    assert "<b>mo" not in html
    escaped = "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert f"Explain {escaped}" in html  # a prompt
    assert f"{escaped} &amp; more" in html  # a message
    assert f"The book is good {escaped}." in html  # a response
    assert f'<span class="tag">{escaped}</span>' in html  # a use case in the samples
    assert "&lt;script&gt;alert(1)&lt;/s" in html  # a use case in the chart, shortened there


def test_the_page_loads_nothing(html: str) -> None:
    assert "default-src 'none'" in html
    assert not re.search(r"\b(src|href)\s*=\s*[\"'](?!#)", html)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert set(re.findall(r"https?://[^\"' ]+", html)) <= {
        "http://www.w3.org/2000/svg",  # names of formats, nothing that is fetched
        "http://www.w3.org/1999/xlink",
    }


def test_sections_and_charts(html: str) -> None:
    for text in (
        "What PPO gained",
        "What it cost",
        "Training",
        "Samples",
        "best-of-8",
        "0.750",
        "prefers-color-scheme",
    ):
        assert text in html
    # Two in the middle; SFT's loss; PPO's reward and KL. Reward model: no log, which the page says.
    assert html.count("<svg") == 5
    assert html.count("No log found for this stage.") == 1


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.3, "up"), (-0.3, -0.1, "down"), (-0.1, 0.1, "unclear"), (0.0, 0.1, "unclear")],
)
def test_direction(low: float, high: float, expected: str) -> None:
    assert page.direction({"mean": 0.0, "ci_low": low, "ci_high": high}) == expected


@pytest.mark.parametrize(
    ("gain", "says"),
    [
        (0.5, "scores higher than SFT"),
        (-0.5, "scores lower than SFT"),
        (0.0, "cannot be told apart from SFT"),
    ],
)
def test_the_verdict_follows_the_figures(gain: float, says: str) -> None:
    interval = {"mean": gain, "ci_low": gain - 0.1, "ci_high": gain + 0.1}
    report = {
        "prompts": 10,
        "labeler": {"ppo_minus_sft": interval},
        "second_labeler": {"ppo_minus_sft": interval},
        "win_rate": {"ppo_vs_sft": {"mean": 0.5}},
        "kl": {"ppo": {"mean": 8.0}},
    }
    assert says in page.verdict(report)


def test_an_empty_run_still_gives_no_chart(tmp_path: Path) -> None:
    groups = page.training_charts({"sft": {}, "rm": {}, "ppo": {}})
    assert [(group["name"], group["charts"]) for group in groups] == [
        ("SFT", []),
        ("Reward model", []),
        ("PPO", []),
    ]
