"""The reward model's loss over all pairs of the K ranked responses to a prompt."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid


class Ranking(NamedTuple):
    """What the comparisons of one batch say about the rewards given."""

    loss: Float[Tensor, ""]
    """() sum over prompts of the mean loss over the prompt's pairs, with gradient."""
    prompts: Int[Tensor, ""]
    """() number of prompts with at least one pair."""
    correct: Int[Tensor, ""]
    """() number of pairs in the right order."""
    pairs: Int[Tensor, ""]
    """() number of pairs that are not ties."""
    centre: Float[Tensor, ""]
    """() sum over prompts of the mean of (r_w + r_l)^2 over the prompt's pairs, with gradient."""
    rewards: Float[Tensor, " N"]
    """(N,) the rewards themselves, without gradient."""
    margins: Float[Tensor, " n"]
    """(n,) r_w - r_l of every pair, without gradient."""


def ranking_loss(
    rewards: Float[Tensor, " N"],
    ranks: Int[Tensor, " N"],
    prompt_index: Int[Tensor, " N"],
    margin: Float[Tensor, " N"] | None = None,
) -> Ranking:
    """Returns the K-wise ranking loss, each prompt counting once whatever its K.

    loss = sum over prompts of 1/n sum_(w,l) -log sigmoid(r_w - r_l - (m_w - m_l)), over the n pairs (w better than l)
    of the prompt; n = C(K,2) less the ties, which are dropped. A prompt that has only ties adds 0. Without margins m
    this is the paper's loss.

    Args:
        rewards: (N,) scalar reward of each response, with gradient; higher is better.
        ranks: (N,) 1 is the best, equal ranks are ties.
        prompt_index: (N,) which prompt a response answers, in [0, B); with ranks on the CPU, pairs are found there, so
            that nothing waits for the rewards.
        margin: (N,) by whose difference r_w is to exceed r_l (Touvron et al. 2023, eq. 2); None is 0.

    Source: section 3.5, eq. 1.
    """
    better = (prompt_index[:, None] == prompt_index[None, :]) & (ranks[:, None] < ranks[None, :])
    winner, loser = better.nonzero(as_tuple=True)
    pairs_of_prompt = torch.bincount(prompt_index[winner], minlength=len(rewards))
    pairs_of_pair = pairs_of_prompt[prompt_index[winner]]
    winner, loser, pairs_of_prompt, pairs_of_pair = (
        part.to(rewards.device, non_blocking=True) for part in (winner, loser, pairs_of_prompt, pairs_of_pair)
    )
    margins = rewards[winner] - rewards[loser]
    weights = 1 / pairs_of_pair.to(margins)
    beyond = margins if margin is None else margins - (margin[winner] - margin[loser])
    return Ranking(
        loss=(-logsigmoid(beyond) * weights).sum(),
        prompts=(pairs_of_prompt > 0).sum(),
        correct=(margins > 0).sum(),
        pairs=torch.tensor(len(margins), device=rewards.device),
        centre=((rewards[winner] + rewards[loser]) ** 2 * weights).sum(),
        rewards=rewards.detach(),
        margins=margins.detach(),
    )
