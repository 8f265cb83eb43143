"""The ranking loss against the double loop of eq. 1."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_instruct.losses.ranking import ranking_loss


def _loop(rewards: Tensor, ranks: list[int], prompts: list[int]) -> tuple[Tensor, int, int, int]:
    total, counted, correct, pairs = torch.zeros((), dtype=rewards.dtype), 0, 0, 0
    for prompt in sorted(set(prompts)):
        rows = [i for i, owner in enumerate(prompts) if owner == prompt]
        terms = []
        for w in rows:
            for lo in rows:
                if ranks[w] < ranks[lo]:
                    terms.append(-torch.log(torch.sigmoid(rewards[w] - rewards[lo])))
                    correct += bool(rewards[w] > rewards[lo])
        if terms:
            total = total + torch.stack(terms).mean()
            counted += 1
            pairs += len(terms)
    return total, counted, correct, pairs


CASES = {
    "one pair": ([1, 2], [0, 0]),
    "K = 4": ([3, 1, 4, 2], [0] * 4),
    "ties dropped": ([1, 2, 2, 3], [0] * 4),
    "mixed K": ([2, 1, 1, 2, 3, 5, 4, 3, 2, 1], [0, 0, 1, 1, 1, 2, 2, 2, 2, 2]),
    "one prompt of ties": ([1, 1, 1, 2, 1], [0, 0, 0, 1, 1]),
    "only ties": ([2, 2, 1, 1], [0, 0, 1, 1]),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_double_loop(case: str) -> None:
    ranks, prompts = CASES[case]
    generator = torch.Generator().manual_seed(len(ranks))
    rewards = torch.randn(len(ranks), generator=generator, dtype=torch.float64, requires_grad=True)
    ranking = ranking_loss(rewards, torch.tensor(ranks), torch.tensor(prompts))
    loss, counted, correct, pairs = _loop(rewards, ranks, prompts)
    torch.testing.assert_close(ranking.loss, loss)
    assert (ranking.prompts.item(), ranking.correct.item(), ranking.pairs.item()) == (counted, correct, pairs)
    expected = torch.autograd.grad(loss, rewards)[0] if pairs else torch.zeros_like(rewards)
    ranking.loss.backward()
    torch.testing.assert_close(rewards.grad, expected)


def test_pairwise_literal() -> None:
    rewards = torch.tensor([0.0, math.log(3.0)])
    for ranks, probability in (([2, 1], 0.75), ([1, 2], 0.25)):
        ranking = ranking_loss(rewards, torch.tensor(ranks), torch.tensor([0, 0]))
        assert ranking.loss.item() == pytest.approx(-math.log(probability))


def test_each_prompt_counts_once_whatever_its_k() -> None:
    rewards = torch.zeros(2 + 6)
    ranking = ranking_loss(rewards, torch.tensor([1, 2, 1, 2, 3, 4, 5, 6]), torch.tensor([0] * 2 + [1] * 6))
    assert ranking.loss.item() == pytest.approx(2 * math.log(2))
    assert ranking.pairs.item() == 1 + 15
    assert ranking.correct.item() == 0  # equal rewards order nothing


def test_order_of_rows_within_a_prompt_does_not_matter() -> None:
    rewards, ranks = torch.tensor([0.3, -1.0, 2.0, 0.1]), torch.tensor([2, 3, 1, 4])
    order = torch.tensor([3, 1, 0, 2])
    prompt = torch.zeros(4, dtype=torch.long)
    one, other = ranking_loss(rewards, ranks, prompt), ranking_loss(rewards[order], ranks[order], prompt)
    torch.testing.assert_close(one.loss, other.loss)
    assert one.correct == other.correct


def test_extreme_margins_stay_finite() -> None:
    rewards = torch.tensor([-1e4, 1e4], requires_grad=True)
    ranking = ranking_loss(rewards, torch.tensor([1, 2]), torch.tensor([0, 0]))
    ranking.loss.backward()
    assert ranking.loss.item() == pytest.approx(2e4)
    assert rewards.grad is not None and rewards.grad.tolist() == [-1.0, 1.0]


def test_no_prompts_at_all() -> None:
    """What a process has that only keeps step with others: a loss of 0 that can be differentiated."""
    rewards, none = torch.ones(2, requires_grad=True), torch.zeros(0, dtype=torch.long)
    ranking = ranking_loss(rewards[none], none, none, torch.zeros(0))
    assert (ranking.loss.item(), ranking.prompts.item(), ranking.pairs.item()) == (0, 0, 0)
    (ranking.loss + ranking.centre).backward()
    assert rewards.grad is not None
    assert rewards.grad.tolist() == [0, 0]
