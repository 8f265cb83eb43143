"""Correlations of figures from sums over them, which processes can add up."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

ROUNDING = 1e-12
"""Variance that is left of a constant, as a share of its mean square."""


def cross_sums(figures: Float[Tensor, "n k"]) -> Float[Tensor, "s s"]:
    """Returns the sums of all products of k figures, and of the figures themselves: ``sum_n v v^T`` with v = (1, x).

    Args:
        figures: (n, k) float64, k figures of each of n episodes.
    """
    with_one = pad(figures, (1, 0), value=1.0)
    return with_one.T @ with_one


def correlations(sums: Float[Tensor, "s s"]) -> Float[Tensor, "k k"]:
    """Returns Pearson's correlations of k figures, (k, k); 0 for a figure that is constant.

    Args:
        sums: of `cross_sums`, (k + 1, k + 1), added over everything that counts.
    """
    count, means = sums[0, 0].clamp(min=1), sums[0, 1:] / sums[0, 0].clamp(min=1)
    squares = sums[1:, 1:] / count
    covariance = squares - means[:, None] * means
    variance = covariance.diagonal()
    known = variance > ROUNDING * squares.diagonal()
    scale = variance.where(known, 1).sqrt()
    return (covariance / (scale[:, None] * scale)).where(known[:, None] & known, 0).clamp(-1, 1)


def correlation_given(one_other: float, one_given: float, other_given: float) -> float | None:
    """Returns the partial correlation of x and y: what is left of theirs when both are predicted from z by a line.

    ``r_xy.z = (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2))``

    Args:
        one_other: r_xy.
        one_given: r_xz.
        other_given: r_yz.

    Returns:
        None if x or y is a line in z.

    Source: Yule 1907, "On the theory of correlation for any number of variables".
    """
    left = (1 - one_given**2) * (1 - other_given**2)
    return (one_other - one_given * other_given) / left**0.5 if left > ROUNDING else None
