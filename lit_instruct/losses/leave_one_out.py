"""Scores of several responses to one prompt, compared with each other."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def leave_one_out(scores: Float[Tensor, " B"], prompts: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Returns by how much each response scores better than the others of its prompt.

    ``s_i - mean(s_j for j != i with the same prompt)``. What a reward gives to all responses of a prompt alike falls
    out, so that no gradient is spent on it. The expected policy gradient stays the same, since the baseline of a
    response does not depend on it (Kool et al. 2019; RLOO, Ahmadian et al. 2024, arXiv 2402.14740, section 3.3).

    Args:
        scores: higher is better.
        prompts: number of each response's prompt, from 0; each occurs at least twice.
    """
    count = torch.bincount(prompts)
    total = torch.zeros(len(count), dtype=scores.dtype, device=scores.device).index_add(0, prompts, scores)
    others = (total[prompts] - scores) / (count[prompts] - 1)
    return scores - others
