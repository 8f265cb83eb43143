"""Whether tokens were drawn in given proportions: Pearson's test."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_frequencies(tokens: Tensor, probabilities: Tensor) -> None:
    """Fails where the counts of tokens are further from what is expected than chance explains (one in 10,000).

    Args:
        tokens: (n,) long, drawn independently.
        probabilities: (V,) of each; the rarest, expected less than five times, count as one.
    """
    expected = probabilities.double() * len(tokens)
    counts = tokens.bincount(minlength=len(expected)).double()
    assert (counts[expected == 0] == 0).all()
    rare = expected < 5
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected, counts = expected[expected > 0], counts[expected > 0]
    assert len(expected) > 2
    freedom = torch.tensor(len(expected) - 1.0, dtype=torch.float64)
    statistic = ((counts - expected).square() / expected).sum()
    tail = torch.special.gammaincc(freedom / 2, statistic / 2)  # of the chi-square distribution
    assert tail > 1e-4, f"chi-square {statistic:.1f} at {freedom:.0f} degrees of freedom"
