"""The finding of sentiment from answers that are known, and the whole of it with --quick."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evidence import imdb
from evidence.__main__ import main
from evidence.context import Context
from evidence.findings.sentiment import Measured, result
from evidence.perplexity import Likelihood
from evidence.reviews import Review
from tests.lit_instruct.rollouts.classifier_folders import distilbert, gpt2


def measured(gain: float = 0.3) -> Measured:
    """Three seeds and forty films; PPO gains `gain`, without the penalty 0.4."""
    draw = np.random.default_rng(0)
    start = draw.uniform(0.3, 0.5, 40)
    varied = [f"One sentence number {n} of its own." for n in range(40)]
    tokens = np.full(20, 10)
    nats = {"sft": np.full(20, -30.0)}
    nats |= {f"kl-{seed}": np.full(20, -31.0) for seed in range(3)}
    nats |= {f"no-kl-{seed}": np.full(20, -35.0) for seed in range(3)}
    return Measured(
        judged={
            "sft": start,
            "kl": np.stack([start + gain + draw.normal(0, 0.05, 40) for _ in range(3)]),
            "no-kl": np.stack([start + 0.4] * 3),
        },
        texts={"sft": [varied], "kl": [varied] * 3, "no-kl": [["A great movie."] * 40] * 3},
        kl={"kl": [4.0, 4.2, 4.4], "no-kl": [9.0, 10.0, 11.0]},
        tokens={"sft": [25.0], "kl": [15.0] * 3, "no-kl": [5.0] * 3},
        likelihood={name: Likelihood(one, tokens) for name, one in nats.items()},
        accuracy=[0.8, 0.85, 0.9],
        auc=0.81,
    )


def test_gain_costs_and_variety_by_hand(tmp_path: Path) -> None:
    found = result(Context(tmp_path), measured())
    assert found.holds is True and found.figure == pytest.approx(0.3, abs=0.02)
    assert found.ci_low > 0.25 and found.ci_high < 0.35
    claims = {claim["claim"]: claim for claim in found.claims}
    lost = claims["with the KL penalty, people's sentences lose likelihood (log of perplexity)"]
    assert lost["figure"] == pytest.approx(0.1) and lost["holds"] is True
    more = claims["without the KL penalty they lose more (log of perplexity)"]
    assert more["figure"] == pytest.approx(0.4)
    assert claims["answers without the KL penalty score higher than with it"]["figure"] == pytest.approx(0.1, abs=0.02)
    assert "at a KL of 4.2 nats, with 100 % of SFT's variety" in found.verdict
    assert "11 % higher" in found.verdict and "10.0 nats" in found.verdict
    assert "0.85 of the pairs" in found.done and "AUC 0.81" in found.done
    rows = {row["model"]: row for row in found.rows}
    assert rows["SFT"]["perplexity of people's sentences"] == f"{np.exp(3):.1f}"
    assert rows["PPO without KL penalty"]["perplexity of people's sentences"] == f"{np.exp(3.5):.1f}"
    assert rows["PPO without KL penalty"]["distinct-2"] == "0.03"  # two of eighty bigrams
    json.dumps([found.rows, found.claims])


@pytest.mark.parametrize(("gain", "holds"), [(-0.2, False), (0.0, None)])
def test_it_does_not_hold_without_a_gain(tmp_path: Path, gain: float, holds: bool | None) -> None:
    found = result(Context(tmp_path), measured(gain))
    assert found.holds is holds
    assert "does not clearly rise" in found.verdict


def test_with_the_hub_the_reward_is_told_beside_the_judge(tmp_path: Path) -> None:
    second = {"sft": 0.489} | {f"{name}-{seed}": 0.6 + seed / 100 for name in ("kl", "no-kl") for seed in range(3)}
    found = result(Context(tmp_path, source="hub"), measured()._replace(accuracy=[], second=second))
    assert found.holds is True
    assert "(0.489 of GPT-2, 0.610 and 0.610 of PPO)" in found.done
    assert "lvwerra/gpt2-imdb continues reviews of IMDB" in found.done and "AUC 0.81" in found.done


@pytest.mark.slow
def test_the_whole_of_it_with_files_in_place_of_the_hub(
    sentence_model: Path, hub_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, _ = gpt2(tmp_path / "gpt2")
    monkeypatch.setattr(imdb, "CLASSIFIER", f"classifier:{distilbert(tmp_path / 'distilbert')}#POSITIVE")
    words = ["sentiment", "--quick", "--source=hub", "--base", str(base), "--runs", str(tmp_path / "runs")]
    assert main(words) == 0
    found = json.loads((tmp_path / "runs/results/sentiment.json").read_text())
    assert [row["model"] for row in found["rows"]] == ["SFT", "PPO", "PPO without KL penalty"]
    assert "of GPT-2" in found["done"] and len(found["claims"]) == 4


@pytest.mark.slow
def test_the_whole_of_it_quickly(
    tiny_model: Path, sentence_model: Path, small_reviews: dict[str, list[Review]], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    assert main(["sentiment", "--quick", "--base", str(tiny_model), "--runs", str(runs)]) == 0
    found = json.loads((runs / "results/sentiment.json").read_text())
    assert found["ci_low"] <= found["figure"] <= found["ci_high"]
    assert [row["model"] for row in found["rows"]] == ["SFT", "PPO", "PPO without KL penalty"]
    assert found["rows"][0]["tokens"] and len(found["claims"]) == 4
    assert found["seeds"] == [0] and {"machine", "versions", "date"} <= found.keys()
