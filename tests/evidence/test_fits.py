"""The forms of Gao et al.: fits find the coefficients that made the points, peaks are where the slope is 0."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evidence.fits import Curve, Fit, fit, fit_curves


@pytest.mark.parametrize(("form", "alpha", "beta"), [("best_of_n", 0.5, 0.1), ("rl", 0.7, 0.4), ("rl", -0.2, -0.3)])
def test_the_fit_finds_the_coefficients_of_points_on_a_form(form: str, alpha: float, beta: float) -> None:
    made = Fit(alpha, beta, form)  # type: ignore[arg-type]
    distances = np.array([0.0, 0.5, 1.0, 2.0, 3.5])
    found = fit(distances, np.array([made.gain(d) for d in distances]), made.form)
    assert found == pytest.approx((alpha, beta, form)) or np.allclose(found[:2], made[:2])


def test_gains_by_hand() -> None:
    assert Fit(0.5, 0.1, "best_of_n").gain(2.0) == pytest.approx(2 * (0.5 - 0.2))
    assert Fit(0.5, 0.1, "rl").gain(math.e) == pytest.approx(math.e * 0.4)
    assert Fit(0.5, 0.1, "rl").gain(0.0) == 0.0


def test_the_fit_minimises_squares() -> None:
    distances, gains = np.array([1.0, 2.0, 3.0]), np.array([0.4, 0.5, 0.1])
    found = fit(distances, gains, "best_of_n")

    def squares(alpha: float, beta: float) -> float:
        return sum((Fit(alpha, beta, "best_of_n").gain(d) - g) ** 2 for d, g in zip(distances, gains, strict=True))

    least = squares(found.alpha, found.beta)
    for step in (-1e-3, 1e-3):
        assert squares(found.alpha + step, found.beta) > least
        assert squares(found.alpha, found.beta + step) > least


def test_the_peak_is_the_highest_point_on_a_grid() -> None:
    for made in (Fit(0.5, 0.1, "best_of_n"), Fit(0.7, 0.4, "rl"), Fit(0.1, -0.2, "rl"), Fit(-0.5, 0.1, "best_of_n")):
        for longest in (1.0, 2.4, 8.0):
            grid = np.linspace(0, longest, 4001)
            best = max(grid, key=made.gain)
            peak = made.peak(longest)
            assert peak.distance == pytest.approx(best, abs=2e-3)
            assert peak.gain == pytest.approx(made.gain(best), abs=1e-5)


def test_peaks_by_hand() -> None:
    assert Fit(0.5, 0.1, "best_of_n").peak(9.0) == pytest.approx((2.5, 0.625))  # alpha / 2 beta, alpha^2 / 4 beta
    distance = math.exp(0.7 / 0.4 - 1)
    assert Fit(0.7, 0.4, "rl").peak(9.0) == pytest.approx((distance, 0.4 * distance))
    assert Fit(0.7, 0.0, "rl").peak(3.0) == pytest.approx((3.0, 2.1))  # never turns
    assert Fit(9.0, 1e-9, "rl").peak(3.0).distance == 3.0  # exp(9e9) is not computed


def test_points_of_a_curve_are_means_over_prompts() -> None:
    kl = np.array([[1.0, 7.0], [-4.0, 2.0]])
    gold = np.array([[0.0, 1.0], [0.5, 0.1]])
    curve = Curve(kl, np.zeros((2, 2)), gold)
    assert curve.distances().tolist() == [2.0, 0.0]  # an estimate of the KL below 0 counts as 0
    assert curve.golds().tolist() == pytest.approx([0.5, 0.3])
    assert curve.distances(np.array([1, 1])).tolist() == pytest.approx([math.sqrt(7), math.sqrt(2)])


def test_curves_are_fitted_together() -> None:
    made = Fit(0.6, 0.2, "rl")
    distances = np.array([[1.0], [2.0], [3.0], [4.0]])
    gold = np.vectorize(made.gain)(distances)
    halves = [Curve(distances[rows] ** 2, gold[rows], gold[rows]) for rows in (slice(0, 2), slice(2, 4))]
    assert fit_curves(halves, "rl")[:2] == pytest.approx((0.6, 0.2))


def test_a_single_distance_gives_the_smallest_coefficients() -> None:
    found = fit(np.array([0.0, 2.0]), np.array([5.0, 1.0]), "best_of_n")
    assert found.gain(2.0) == pytest.approx(1.0)
    assert fit(np.zeros(3), np.ones(3), "rl")[:2] == (0.0, 0.0)


def test_a_curve_needs_tables_of_one_shape() -> None:
    with pytest.raises(ValueError, match="three tables"):
        Curve(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 4)))


@pytest.mark.parametrize("form", ["best_of_n", "rl"])
def test_the_slope_is_that_of_the_gain(form: str) -> None:
    made = Fit(0.5, 0.2, form)  # type: ignore[arg-type]
    for distance in (0.4, 1.0, 3.0):
        rise = (made.gain(distance + 1e-5) - made.gain(distance - 1e-5)) / 2e-5
        assert made.slope(distance) == pytest.approx(rise, abs=1e-6)
    assert made.slope(made.peak(99.0).distance) == pytest.approx(0.0)
