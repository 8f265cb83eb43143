"""Correlations from sums, on numbers small enough to check by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lit_instruct.losses.correlation import correlation_given, correlations, cross_sums

FIGURES = torch.tensor([[1.0, 2, 5], [2.0, 4, 5], [3.0, 9, 5]], dtype=torch.float64)


def test_sums_by_hand() -> None:
    assert cross_sums(FIGURES).tolist() == [[3, 6, 15, 15], [6, 14, 37, 30], [15, 37, 101, 75], [15, 30, 75, 75]]


def test_sums_of_parts_add_up() -> None:
    parts = cross_sums(FIGURES[:1]) + cross_sums(FIGURES[1:])
    assert torch.equal(parts, cross_sums(FIGURES))


def test_correlations_by_hand() -> None:
    found = correlations(cross_sums(FIGURES))
    r = 7 / math.sqrt(2 * 26)
    wanted = torch.tensor([[1, r, 0], [r, 1, 0], [0, 0, 0]], dtype=torch.float64)  # the last figure is constant
    torch.testing.assert_close(found, wanted)


def test_without_episodes_nothing_correlates() -> None:
    assert correlations(torch.zeros(3, 3, dtype=torch.float64)).tolist() == [[0, 0], [0, 0]]


def test_given_a_third_figure_by_hand() -> None:
    # x = u + v, y = u + v + w and z = u at right angles: v and v + w are left.
    found = correlation_given(2 / math.sqrt(6), 1 / math.sqrt(2), 1 / math.sqrt(3))
    assert found == pytest.approx(1 / math.sqrt(2))
    assert correlation_given(0.5, 1.0, 0.5) is None
