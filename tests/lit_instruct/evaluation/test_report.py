"""The page: safe, self-contained, and honest about direction."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from lit_instruct.evaluation.compare import evaluate
from lit_instruct.evaluation.options import EvalOptions
from lit_instruct.evaluation.report import cost, gained
from tests.lit_instruct.evaluation.runs import fake_loaders, write_run


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = write_run(tmp_path_factory.mktemp("runs") / "de<b>mo")
    labelers = [f"lit_instruct.evaluation.labelers.{name}" for name in ("tone", "second_opinion")]
    options = EvalOptions(str(run), str(run / "prompts.jsonl"), labeler=labelers[0], second_labeler=labelers[1])
    evaluate(options, fake_loaders([]))
    return (run / "eval" / "report.html").read_text()


def test_text_from_data_and_models_is_escaped(html: str) -> None:
    assert html.lower().count("<script") == 1  # our own, below
    assert "<b>mo" not in html
    escaped = "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert f"Explain {escaped}" in html  # a prompt
    assert f"{escaped} &amp; more" in html  # a message
    assert f"The book is good {escaped}." in html  # a response
    assert f'<span class="tag">{escaped}</span>' in html  # a use case in the samples
    assert "&lt;script&gt;alert(1)&lt;/s" in html  # a use case in the chart, shortened there


def test_the_only_script_is_the_one_that_the_policy_allows(html: str) -> None:
    """Its hash is in the Content-Security-Policy, so that no other script and no handler in an attribute would run."""
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    (code,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not re.search(r"<[^>]* on\w+\s*=", html)
    assert not re.search(r"fetch|XMLHttpRequest|import|innerHTML|eval|\$\{[^}]*html", code)


def test_all_samples_can_be_searched_and_few_are_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo")
    rows = [{"prompt": f"question {i}"} for i in range(30)]
    (run / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate(EvalOptions(str(run), str(run / "prompts.jsonl"), best_of=2), fake_loaders([]))
    page = (run / "eval" / "report.html").read_text()
    assert page.count('<article class="sample">') == 9 and page.count('<article class="sample" hidden>') == 21
    assert all(f"question {i}</div>" in page for i in range(30))
    assert '<div class="search" hidden>' in page  # shown by the script: without it there is nothing to search with


def test_the_main_pair_comes_first_in_the_table(html: str) -> None:
    (head,) = re.findall(r"<thead>(.*?)</thead>", html, re.S)
    assert re.findall(r">([^<>]+)</th>", head) == ["PPO", "PPO \N{MINUS SIGN} SFT", "SFT", "best-of-8", "base"]
    assert "@media (max-width: 640px)" in html and ".answer.ours { order: -1; }" in html


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


def cards(kl: float, gain: float, prompts: int = 100) -> dict[str, tuple[str, str]]:
    """Value and mood of each card of a report on PPO and SFT."""

    def around(mean: float, **more: float) -> dict[str, float]:
        return {"mean": mean, "ci_low": mean - 0.1, "ci_high": mean + 0.1, **more}

    both = {"sft": around(0.0), "ppo": around(gain), "ppo_minus_sft": around(gain, p_value=0.001)}
    report = {
        "prompts": prompts,
        "systems": {"sft": "SFT", "ppo": "PPO"},
        "reference": "sft",
        "judge": "labeler",
        "labeler": both,
        "second_labeler": both,
        "win_rate": {"ppo_vs_sft": around(0.715)},
        "kl": {"ppo": around(kl)},
        "length": both,
        "eos_share": both,
        "distinct_2": {"sft": around(0.9), "ppo": around(0.9), "ppo_over_sft": 1.0},
        "opening": {"sft": None, "ppo": None},
    }
    found = [*gained(report, "ppo", "sft"), *cost(report, "ppo", "sft")]
    return {card["title"]: (card["value"], card["mood"]) for card in found}


def test_only_what_is_supported_is_green() -> None:
    well = cards(6.0, 0.3)
    assert well["labeler score"] == ("+0.30", "good")
    assert well["preferred to SFT"] == ("72 %", "good")
    assert well["KL to SFT"] == ("6.0 nats", "plain")
    for unsupported in (cards(0.01, 0.3), cards(6.0, 0.3, prompts=29), cards(-0.5, 0.3)):
        assert {mood for _, mood in list(unsupported.values())[:3]} == {"plain"}
    assert cards(-0.5, 0.3)["KL to SFT"] == ("0 nats", "plain")


def test_a_page_of_other_stages_says_what_is_missing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo")
    (run / "rm" / "stage.json").unlink()
    labeler = "lit_instruct.evaluation.labelers.tone"
    evaluate(EvalOptions(str(run), str(run / "prompts.jsonl"), labeler=labeler), fake_loaders([]))
    page = (run / "eval" / "report.html").read_text()
    assert page.count("<svg") == 4  # by use case; SFT's loss; PPO's reward and KL
    assert "By use case" in page and "best-of-8" not in page
