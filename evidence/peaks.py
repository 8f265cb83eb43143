"""Figures of over-optimization: the fits of all curves, where they turn, and what moves the turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evidence.fits import Curve, Fit, Form, fit_curves
from evidence.resampling import RESAMPLES, over_seeds_and_prompts
from lit_instruct.evaluation.measures import Interval


@dataclass(frozen=True)
class Measured:
    """Curves, one per seed, on the same prompts."""

    best_of_n: Mapping[int, Sequence[Curve]]
    """Prompts that the reward model was trained on -> its curves."""
    ppo: Mapping[int, Sequence[Curve]]
    """The same for PPO against that reward model."""
    ensemble: Sequence[Curve]
    """Of PPO against several reward models at once."""
    members_trained_on: int
    """Prompts that each of those was trained on."""

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.ensemble)

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return self.ensemble[0].kl.shape[1]


def longest(curves: Sequence[Curve]) -> float:
    """Returns the largest distance of several curves."""
    return max(float(curve.distances().max()) for curve in curves)


def intervals(measured: Measured, seed: int = 0, n: int = RESAMPLES) -> dict[str, Interval]:
    """Returns all figures with 95 % intervals over seeds and prompts.

    For <curve> best_of_n/<prompts>, ppo/<prompts> and ensemble:

    - <curve>/alpha, <curve>/beta: of the fit.
    - <curve>/distance, <curve>/gain: where the fit is highest within what was measured, and how high.
    - <curve>/decline: how far it falls from there to the largest distance; never below 0, so no test.
    - <curve>/end: mean gold gain at the largest distance of each curve, without a fit.
    - <curve>/slope: gold score per unit of d at the largest distance; below 0 it has turned.
    - <curve>/proxy_rise: how far the proxy still rises from the highest gold score that was measured to the end, in
      standard deviations of the proxy over SFT's samples.

    all_ppo/slope and all_ppo/proxy_rise are means over the curves of PPO with one reward model. Differences of two
    peaks, each within the smaller of the two largest distances: ensemble_minus_one/distance and /gain;
    more_prompts/ppo/gain and more_prompts/best_of_n/gain, the largest training set minus the smallest.

    Args:
        measured: the curves.
        seed: of the resampling.
        n: number of resamples.
    """
    kinds: dict[str, tuple[Sequence[Curve], Form]] = {"ensemble": (measured.ensemble, "rl")}
    kinds |= {f"best_of_n/{size}": (curves, "best_of_n") for size, curves in measured.best_of_n.items()}
    kinds |= {f"ppo/{size}": (curves, "rl") for size, curves in measured.ppo.items()}
    ends = {name: longest(curves) for name, (curves, _) in kinds.items()}
    least, most = min(measured.ppo), max(measured.ppo)
    differences = {
        "ensemble_minus_one": ("ensemble", f"ppo/{measured.members_trained_on}"),
        "more_prompts/ppo": (f"ppo/{most}", f"ppo/{least}"),
        "more_prompts/best_of_n": (f"best_of_n/{most}", f"best_of_n/{least}"),
    }

    def figures(seeds: np.ndarray, prompts: np.ndarray) -> dict[str, float]:
        drawn = {name: [curves[seed] for seed in seeds] for name, (curves, _) in kinds.items()}
        fits = {name: fit_curves(drawn[name], form, prompts) for name, (_, form) in kinds.items()}
        found: dict[str, float] = {}
        for name, own in fits.items():
            found |= {f"{name}/{key}": value for key, value in _of_fit(own, ends[name]).items()}
            found[f"{name}/proxy_rise"] = proxy_rise(drawn[name], prompts)
            found[f"{name}/end"] = at_the_end(drawn[name], prompts)
        for key in ("slope", "proxy_rise"):
            found[f"all_ppo/{key}"] = float(np.mean([found[f"ppo/{size}/{key}"] for size in measured.ppo]))
        for name, (ours, theirs) in differences.items():
            end = min(ends[ours], ends[theirs])
            ours_peak, theirs_peak = fits[ours].peak(end), fits[theirs].peak(end)
            found[f"{name}/distance"] = ours_peak.distance - theirs_peak.distance
            found[f"{name}/gain"] = ours_peak.gain - theirs_peak.gain
        return found

    return over_seeds_and_prompts(figures, measured.seeds, measured.prompts, seed, n)


def _of_fit(fit: Fit, end: float) -> dict[str, float]:
    peak = fit.peak(end)
    return {
        "alpha": fit.alpha,
        "beta": fit.beta,
        "distance": peak.distance,
        "gain": peak.gain,
        "decline": peak.gain - fit.gain(end),
        "slope": fit.slope(end) if end > 0 else 0.0,
    }


def at_the_end(curves: Sequence[Curve], prompts: np.ndarray | slice = slice(None)) -> float:
    """Returns the mean over curves of the gold gain at the largest distance."""
    return float(np.mean([curve.golds(prompts)[curve.distances(prompts).argmax()] for curve in curves]))


def proxy_rise(curves: Sequence[Curve], prompts: np.ndarray | slice = slice(None)) -> float:
    """Returns the mean over curves of the proxy at the largest distance minus that where the gold score is highest."""
    rises = []
    for curve in curves:
        proxy = curve.proxy[:, prompts].mean(axis=1)
        rises.append(proxy[curve.distances(prompts).argmax()] - proxy[curve.golds(prompts).argmax()])
    return float(np.mean(rises))
