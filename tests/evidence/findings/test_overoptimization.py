"""The finding of over-optimization from curves whose peaks are known, and the whole of it with --quick."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evidence.__main__ import main
from evidence.context import Context
from evidence.findings.overoptimization import result
from evidence.fits import Curve, Fit, Form
from evidence.peaks import Measured
from evidence.proxies import Plan, Proxies, Setup, as_one
from evidence.result import Result
from tests.tiny import tiny_llama

DISTANCES = np.array([0.6, 1.2, 1.8, 2.6, 3.4, 4.2])


def made(alpha: float, beta: float, form: Form, seed: int) -> Curve:
    """A curve of 20 prompts around a form, whose proxy rises with the distance."""
    noise = np.random.default_rng(seed).normal(0, 0.02, (6, 20))
    gold = np.array([[Fit(alpha, beta, form).gain(d)] * 20 for d in DISTANCES])
    distances = np.repeat(DISTANCES[:, None], 20, axis=1)
    return Curve(distances**2, distances, gold + noise)


def proxies(ensemble: float) -> Proxies:
    """Curves of two sizes and two seeds; `ensemble` is the alpha of the ensemble, the single model's is 0.3."""
    curves = Measured(
        {size: [made(0.4, 0.03, "best_of_n", seed) for seed in (0, 1)] for size in (50, 400)},
        {50: [made(0.3, 0.2, "rl", s) for s in (0, 1)], 400: [made(0.5, 0.2, "rl", 5 + s) for s in (0, 1)]},
        [made(ensemble, 0.2, "rl", 9 + seed) for seed in (0, 1)],
        50,
    )
    return Proxies(curves, {size: [np.full(20, 0.6), np.full(20, 0.7)] for size in (50, 400)})


RUNS = Path("runs")
SETUP = Setup(Context(RUNS, (0, 1)), Plan((50, 400), members_trained_on=50), RUNS, "judges.gold")


@pytest.fixture(scope="module")
def found() -> Result:
    return result(SETUP, proxies(ensemble=0.5), resamples=100)


def test_it_holds_where_the_gold_score_turns_and_says_what_moves_the_peak(found: Result) -> None:
    assert found.holds is True
    assert found.figure < found.ci_high < 0
    claims = {claim["claim"]: claim["holds"] for claim in found.claims}
    assert claims["5 reward models: the gold score peaks higher than with one"] is True
    assert claims["PPO: the gold score peaks higher with 400 prompts than with 50"] is True
    assert claims["best-of-n: the gold score peaks higher with 400 prompts than with 50"] is None
    assert "has turned down" in found.verdict and " later " in found.verdict and " higher " in found.verdict
    assert "0.65 (50 prompts)" in found.done and "judges.gold" in found.done


def test_a_worse_ensemble_is_told() -> None:
    found = result(SETUP, proxies(ensemble=0.1), resamples=100)
    assert "earlier" in found.verdict and "lower" in found.verdict
    claims = {claim["claim"]: claim["holds"] for claim in found.claims}
    assert claims["5 reward models: the gold score peaks higher than with one"] is False


def test_rows_and_charts_have_every_curve(found: Result) -> None:
    kinds = [(row["optimised by"], row["prompts of the reward model"]) for row in found.rows]
    assert kinds == [("best-of-n", 50), ("best-of-n", 400), ("PPO", 50), ("PPO", 400), ("PPO, ensemble", 50)]
    assert found.rows[2]["alpha"].startswith("0.30 (")
    titles = [chart["title"] for chart in found.plots]
    assert titles == [f"{kind}: {score} gain over SFT" for kind in ("Best-of-n", "PPO") for score in ("gold", "proxy")]
    assert [line["name"] for line in found.plots[2]["lines"]] == ["50 prompts", "400 prompts", "ensemble"]
    assert len(found.plots[2]["lines"][0]["points"]) == 12
    json.dumps(found.plots)


def test_the_ensembles_proxy_is_the_mean_less_the_standard_deviation() -> None:
    scores = np.array([[[1.0, 2.0]], [[3.0, 2.0]]])
    assert as_one(scores) == pytest.approx(np.array([[2.0 - 1.0, 2.0]]))


@pytest.mark.slow
def test_quick(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", max_position_embeddings=2048)
    words = ["overoptimization", "--quick", "--runs", str(tmp_path / "runs"), "--base", str(base)]
    assert main(words) == 0
    stages = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("stage.json")}
    found = json.loads((tmp_path / "runs/results/overoptimization.json").read_text())
    assert len(found["rows"]) == 5
    assert all(np.isfinite(claim["figure"]) for claim in found["claims"])
    assert main(words) == 0  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("stage.json")} == stages
