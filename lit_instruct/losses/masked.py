"""Statistics over the real tokens of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Moments(NamedTuple):
    """Sums from which mean and variance follow; adding two of them merges their batches."""

    number: Float[Tensor, ""]
    """() number of values."""
    total: Float[Tensor, ""]
    """() sum of the values."""
    squares: Float[Tensor, ""]
    """() sum of the squared values."""

    @property
    def mean(self) -> Float[Tensor, ""]:
        """() arithmetic mean, 0 without values."""
        return self.total / self.number.clamp(min=1)

    @property
    def variance(self) -> Float[Tensor, ""]:
        """() unbiased variance, 0 with fewer than two values."""
        centred = self.squares - self.number * self.mean**2
        return centred.clamp(min=0) / (self.number - 1).clamp(min=1)


def masked_moments(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Moments:
    """Returns count, sum and sum of squares of the real values, in float64 so that batches can be merged.

    Args:
        values: any shape.
        mask: same shape, bool, True counts.
    """
    real = values[mask].double()
    return Moments(torch.tensor(float(real.numel()), dtype=torch.float64), real.sum(), (real**2).sum())


def whiten(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], moments: Moments, keep_mean: bool = False
) -> Float[Tensor, "*shape"]:
    """Returns (values - mean) / sqrt(variance + 1e-8), masked positions 0.

    Args:
        values: any shape.
        mask: same shape, bool, True is real.
        moments: over the whole global batch, so that the number of processes does not matter.
        keep_mean: adds the mean back (rewards keep their level, advantages do not).

    Source: Huang et al. 2024 (arXiv 2403.17031), reward and advantage whitening.
    """
    mean, variance = moments.mean.to(values), moments.variance.to(values)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened + mean if keep_mean else whitened) * mask
