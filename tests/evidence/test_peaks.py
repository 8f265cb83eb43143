"""Figures of over-optimization from curves whose peaks are known."""

from __future__ import annotations

import numpy as np
import pytest

from evidence.fits import Curve, Fit, Form
from evidence.peaks import Measured, intervals, longest, proxy_rise

DISTANCES = np.array([0.6, 1.2, 1.8, 2.6, 3.4, 4.2])


def made(alpha: float, beta: float, form: Form, seed: int, noise: float = 0.02) -> Curve:
    """A curve of 40 prompts around a form; the proxy rises by 1 for every unit of distance."""
    draw = np.random.default_rng(seed)
    fit = Fit(alpha, beta, form)
    gold = np.array([[fit.gain(d)] * 40 for d in DISTANCES]) + draw.normal(0, noise, (6, 40))
    return Curve(np.repeat(DISTANCES[:, None] ** 2, 40, axis=1), np.repeat(DISTANCES[:, None], 40, axis=1), gold)


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured(
        best_of_n={size: [made(0.4, 0.03, "best_of_n", 10 * size + seed) for seed in range(3)] for size in (50, 400)},
        ppo={50: [made(0.3, 0.2, "rl", s) for s in range(3)], 400: [made(0.5, 0.2, "rl", 5 + s) for s in range(3)]},
        ensemble=[made(0.45, 0.2, "rl", 9 + seed) for seed in range(3)],
        members_trained_on=50,
    )


def test_figures_are_those_of_the_forms(measured: Measured) -> None:
    found = intervals(measured, n=100)
    one, many = Fit(0.3, 0.2, "rl"), Fit(0.45, 0.2, "rl")
    end = longest(measured.ensemble)
    assert end == pytest.approx(4.2)
    expected = {
        "ppo/50/alpha": 0.3,
        "ppo/50/beta": 0.2,
        "ppo/50/distance": one.peak(end).distance,
        "ppo/50/gain": one.peak(end).gain,
        "ppo/50/end": one.gain(4.2),
        "ppo/50/slope": one.slope(end),
        "all_ppo/slope": (one.slope(end) + Fit(0.5, 0.2, "rl").slope(end)) / 2,
        "all_ppo/proxy_rise": 4.2 - (1.8 + 4.2) / 2,
        "ppo/50/decline": one.peak(end).gain - one.gain(end),
        "ensemble_minus_one/distance": many.peak(end).distance - one.peak(end).distance,
        "ensemble_minus_one/gain": many.peak(end).gain - one.peak(end).gain,
        "more_prompts/ppo/gain": Fit(0.5, 0.2, "rl").peak(end).gain - one.peak(end).gain,
        "more_prompts/best_of_n/gain": 0.0,
        "best_of_n/400/decline": 0.0,  # rises to the end
    }
    for name, value in expected.items():
        assert found[name].mean == pytest.approx(value, abs=0.03), name
        assert found[name].ci_low - 0.03 <= value <= found[name].ci_high + 0.03, name
        assert found[name].ci_low <= found[name].mean <= found[name].ci_high, name
    assert found["ensemble_minus_one/gain"].ci_low > 0


def test_the_proxy_rises_beyond_the_highest_gold_score(measured: Measured) -> None:
    highest = max(DISTANCES, key=Fit(0.3, 0.2, "rl").gain)
    assert proxy_rise(measured.ppo[50]) == pytest.approx(4.2 - highest)
    assert proxy_rise(measured.best_of_n[50]) == 0.0
