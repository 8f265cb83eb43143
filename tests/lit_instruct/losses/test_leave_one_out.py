"""Scores of several responses to one prompt, compared with each other."""

from __future__ import annotations

import statistics

import torch

from lit_instruct.losses.leave_one_out import leave_one_out


def test_literal() -> None:
    scores, prompts = torch.tensor([1.0, 3.0, 2.0, -1.0, 8.0]), torch.tensor([0, 0, 1, 1, 1])
    torch.testing.assert_close(leave_one_out(scores, prompts), torch.tensor([-2.0, 2.0, -1.5, -6.0, 7.5]))


def test_it_equals_a_loop_for_prompts_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    prompts = torch.arange(5).repeat(4)[torch.randperm(20, generator=generator)]
    scores = torch.randn(20, generator=generator)
    expected = [
        float(scores[i]) - statistics.fmean(float(scores[j]) for j in range(20) if j != i and prompts[j] == prompts[i])
        for i in range(20)
    ]
    torch.testing.assert_close(leave_one_out(scores, prompts), torch.tensor(expected))


def test_what_all_responses_to_a_prompt_get_falls_out() -> None:
    scores, prompts = torch.randn(6, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 0, 1, 1, 2, 2])
    shifted = scores + torch.tensor([5.0, -3.0, 100.0])[prompts]
    torch.testing.assert_close(leave_one_out(shifted, prompts), leave_one_out(scores, prompts), atol=1e-4, rtol=0)
