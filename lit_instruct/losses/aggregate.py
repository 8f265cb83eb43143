"""The scores of several reward models as one score."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

Aggregate = Literal["mean", "min", "mean_minus_std"]
"""The mean of the members' scores, the lowest of them, or the mean less a multiple of their standard deviation."""


def aggregate(
    scores: Float[Tensor, "B N"], how: Aggregate = "mean", std_coef: float = 1.0
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Returns one score of each response, and the standard deviation of the members' scores.

    mean = sum r_n / N,  min = min r_n,  mean_minus_std = mean - c std,  std = sqrt(sum (r_n - mean)^2 / N).

    Args:
        scores: (B, N) of N reward models; higher is better.
        how: how they become one.
        std_coef: c; higher is more cautious.

    Returns:
        (B,) scores and (B,) standard deviations.

    Source: Coste et al. 2023 (arXiv 2310.02743), section 3.2: mean, worst-case and uncertainty-weighted optimisation;
    the last subtracts the variance there, here the standard deviation, which has the unit of the scores.
    """
    mean, std = scores.mean(dim=1), scores.std(dim=1, correction=0)
    if how == "min":
        return scores.min(dim=1).values, std
    return (mean - std_coef * std if how == "mean_minus_std" else mean), std
