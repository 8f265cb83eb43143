"""Figures of episodes and their means."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_instruct.batches import Rollout
from lit_instruct.ppo.figures import EpisodeMeans, case_names, episode_figures, figure_names


def test_figures_of_episodes() -> None:
    nothing = torch.zeros(2, 3)
    rollout = Rollout(
        input_ids=nothing,
        attention_mask=nothing,
        prompt_length=nothing,
        response_mask=torch.tensor([[True, True, False], [True, True, True]]),
        log_probs=torch.tensor([[-1.0, -2.0, 0.0], [-1.0, -1.0, -1.0]]),
        reference_log_probs=torch.tensor([[-1.5, -2.5, 0.0], [-1.0, 0.0, -1.0]]),
        values=nothing,
        scores=torch.tensor([4.0, 0.5]),
        reward_parts=torch.tensor([[3.0, 0.5], [0.0, 0.25]]),
        ended=torch.tensor([True, False]),
        entropy=torch.tensor([0.5, 1.5]),
        trunk=None,
    )
    assert episode_figures(rollout).tolist() == [
        [4.0, 1.0, 2.0, 1.0, 0.5, 3.0, 0.5],
        [0.5, -1.0, 3.0, 0.0, 1.5, 0.0, 0.25],
    ]
    names = ["reward", "kl", "response_length", "eos_share", "entropy", "reward/main", "reward/brevity"]
    assert figure_names(["main", "brevity"]) == names


def test_no_use_case_takes_the_name_of_another_figure() -> None:
    figures = [*figure_names(["main", "brevity", "main/chat"]), "labeler"]
    cases = ["chat", "main", "brevity", "labeler", "use_case.main", "main/chat", "a/b"]
    named = case_names(figures, cases)
    logged = [*figures, *(f"{figure}/{case}" for case in named.values() for figure in figures)]
    assert len(set(logged)) == len(logged)
    assert named["a/b"] == "a/b" and named["labeler"] == "labeler" and named["brevity"] == "use_case.brevity"
    assert case_names(figure_names(["main"]), ["main", "chat"]) == {"main": "use_case.main", "chat": "chat"}
    harmful = ["\\x1b[2J", "\x1b[2J"]
    assert sorted(case_names(figure_names(["main"]), harmful).values()) == ["\\x1b[2J", "use_case.\\x1b[2J"]


def test_means_overall_and_by_group() -> None:
    means = EpisodeMeans(["reward", "kl"], ["chat", "extract", "rewrite"])
    for figures, group in (([1, 2], "chat"), ([3, 4], "chat"), ([5, 12], "rewrite"), ([7, 6], None), ([9, 1], "new")):
        means.add(torch.tensor(figures, dtype=torch.float64), group)
    assert means.means(lambda sums: sums) == {
        "": {"reward": 5.0, "kl": 5.0},
        "chat": {"reward": 2.0, "kl": 3.0},
        "rewrite": {"reward": 5.0, "kl": 12.0},
    }


def test_sums_go_through_the_processes() -> None:
    def two_processes(sums: Tensor) -> Tensor:
        other = torch.tensor([[1.0, 11.0], [1.0, 11.0]], dtype=torch.float64)
        return sums + other

    means = EpisodeMeans(["reward"], ["chat"])
    means.add(torch.tensor([1.0], dtype=torch.float64))
    assert means.means(two_processes) == {"": {"reward": 6.0}, "chat": {"reward": 11.0}}
