"""Curves of gold against proxy score along the distance to the SFT model, and the forms that Gao et al. fit to them.

Gao, Schulman, Hilton 2022, "Scaling laws for reward model overoptimization" (arXiv 2210.10760): with d = sqrt(KL) the
gold score of best-of-n is d (alpha - beta d), that of RL d (alpha - beta log d), above that of the first model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Form = Literal["best_of_n", "rl"]
"""d (alpha - beta d), or d (alpha - beta log d)."""


@dataclass(frozen=True)
class Curve:
    """Scores of one training, or of best-of-n, at V distances on the same P prompts.

    Args:
        kl: (V, P) KL to the SFT model in nats per response.
        proxy: (V, P) reward that was optimised, minus that of the SFT model on the same prompt.
        gold: (V, P) score by the gold labeler, minus that of the SFT model on the same prompt.
    """

    kl: np.ndarray
    proxy: np.ndarray
    gold: np.ndarray

    def __post_init__(self) -> None:
        if self.kl.ndim != 2 or not self.kl.shape == self.proxy.shape == self.gold.shape:
            shapes = f"{self.kl.shape}, {self.proxy.shape} and {self.gold.shape}"
            raise ValueError(f"a curve needs three tables (distances, prompts), got {shapes}")

    def distances(self, prompts: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns d = sqrt(mean KL over the given prompts): (V,); an estimate below 0 counts as 0."""
        return np.sqrt(np.maximum(self.kl[:, prompts].mean(axis=1), 0.0))

    def golds(self, prompts: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns the mean gold gain over the given prompts: (V,)."""
        return self.gold[:, prompts].mean(axis=1)


class Peak(NamedTuple):
    """Where a fit is highest."""

    distance: float
    """d = sqrt(KL)."""
    gain: float
    """Its value there."""


class Fit(NamedTuple):
    """A form with its two coefficients."""

    alpha: float
    beta: float
    form: Form

    def gain(self, distance: float) -> float:
        """Returns the gold gain at d >= 0."""
        if distance == 0:
            return 0.0
        return distance * (self.alpha - self.beta * (distance if self.form == "best_of_n" else math.log(distance)))

    def slope(self, distance: float) -> float:
        """Returns the derivative of `gain` at d > 0: below 0 the gold score falls."""
        if self.form == "best_of_n":
            return self.alpha - 2 * self.beta * distance
        return self.alpha - self.beta * (math.log(distance) + 1)

    def peak(self, longest: float) -> Peak:
        """Returns the highest point on [0, longest].

        The slope is 0 at d = alpha / (2 beta) for best-of-n and at d = exp(alpha / beta - 1) for RL, which is the peak
        if beta > 0; otherwise, or if that lies beyond `longest`, the peak is at an end.

        Args:
            longest: largest distance that was measured: beyond it a fit says nothing.
        """
        found = [0.0, longest]
        if self.beta > 0:
            ratio = self.alpha / self.beta
            flat = ratio / 2 if self.form == "best_of_n" else math.exp(min(ratio - 1, 50.0))
            found.append(min(max(flat, 0.0), longest))
        return max((Peak(distance, self.gain(distance)) for distance in found), key=lambda peak: peak.gain)


def fit(distances: np.ndarray, gains: np.ndarray, form: Form) -> Fit:
    """Returns the least-squares fit of a form, which is linear in alpha and beta.

    Of several fits that are equally good, as with a single distance, it is the one with the smallest coefficients.

    Args:
        distances: (N,) d >= 0; points at 0 say nothing, because both forms are 0 there.
        gains: (N,) gold gains.
        form: which one.
    """
    away = distances > 0
    d = distances[away]
    bend = d if form == "best_of_n" else np.log(d)
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([d, -d * bend], axis=1), gains[away], rcond=None)
    return Fit(float(alpha), float(beta), form)


def fit_curves(curves: Sequence[Curve], form: Form, prompts: np.ndarray | slice = slice(None)) -> Fit:
    """Returns one fit to the points of several curves, each point a mean over the given prompts."""
    distances = np.concatenate([curve.distances(prompts) for curve in curves])
    return fit(distances, np.concatenate([curve.golds(prompts) for curve in curves]), form)
