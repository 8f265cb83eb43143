"""What PPO logs about its episodes, in training and on held-out prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_instruct.batches import Rollout

FIGURES = ("reward", "kl", "response_length", "eos_share", "entropy")
"""reward as the reward model gave it, KL to the SFT model in nats, tokens, 0 or 1, mean entropy of a token in nats."""


def episode_figures(rollout: Rollout) -> Tensor:
    """Returns the FIGURES of every episode of a micro-batch, then its rewards one by one: (B, n) float64 on the CPU."""
    kl = (rollout.log_probs - rollout.reference_log_probs).sum(dim=1)
    columns = (rollout.raw_scores, kl, rollout.response_length, rollout.ended, rollout.entropy)
    figures = torch.stack([column.detach().double().cpu() for column in columns], dim=1)
    return torch.cat([figures, rollout.reward_parts.double().cpu()], dim=1)


def figure_names(further_rewards: Sequence[str]) -> list[str]:
    """Returns the names of what `episode_figures` returns; the main reward alone is called reward/main."""
    return [*FIGURES, "reward/main", *(f"reward/{name}" for name in further_rewards)]


class EpisodeMeans:
    """Means of figures over episodes of all processes, overall and by group.

    Args:
        names: of the figures.
        groups: that an episode may belong to; the same on every process, or their sums would not match.
    """

    def __init__(self, names: Sequence[str], groups: Sequence[str] = ()) -> None:
        self.names = list(names)
        self.groups = ["", *groups]
        self.sums = torch.zeros(len(self.groups), 1 + len(self.names), dtype=torch.float64)

    def add(self, figures: Tensor, group: str | None = None) -> None:
        """Counts one episode.

        Args:
            figures: (len(names),) float64.
            group: such as the prompt's use case; one that was not announced counts overall alone.
        """
        row = torch.cat([torch.ones(1, dtype=torch.float64), figures])
        self.sums[0] += row
        if group in self.groups[1:]:
            self.sums[self.groups.index(group)] += row

    def means(self, sum_over_processes: Callable[[Tensor], Tensor]) -> dict[str, dict[str, float]]:
        """Returns group -> name -> mean; the group "" is all episodes, a group without episodes is left out."""
        totals = sum_over_processes(self.sums).tolist()
        return {
            group: {name: total / count for name, total in zip(self.names, row, strict=True)}
            for group, (count, *row) in zip(self.groups, totals, strict=True)
            if count
        }
