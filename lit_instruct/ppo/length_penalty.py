"""A reward that is below 0 for long responses."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NAME = "length_penalty"
"""Its name among the rewards."""


class LengthPenalty(NamedTuple):
    """A penalty that grows by a line from `free` tokens to the length limit."""

    most: float
    """What a response at the limit loses, above 0."""
    free: int
    """Tokens that cost nothing."""
    limit: int
    """The length limit in tokens, above `free`."""

    def __call__(self, lengths: Tensor) -> Tensor:
        """Returns ``-most * clamp((|y| - free) / (limit - free), 0, 1)``.

        Args:
            lengths: (B,) |y|, tokens of the responses with the EOS.

        Source: Yu et al. 2025 (DAPO, arXiv 2503.14476), the soft overlong punishment, with limit - free as its cache;
        Singhal et al. 2023 (arXiv 2310.03716) find that a length penalty, among other means, lessens the growth of
        responses but does not end it.
        """
        return -self.most * ((lengths.float() - self.free) / (self.limit - self.free)).clamp(0, 1)
