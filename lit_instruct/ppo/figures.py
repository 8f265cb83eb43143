"""What PPO logs about its episodes, in training and on held-out prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_instruct.batches import Rollout
from lit_instruct.losses.correlation import correlation_given, correlations, cross_sums
from lit_instruct.losses.policy import explained_variance
from lit_instruct.ppo.collect import Rollouts
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.ppo.targets import Target
from lit_instruct.terminal import printable

FIGURES = ("reward", "kl", "response_length", "eos_share", "entropy")
"""Reward before shaping; KL to the SFT model in nats; tokens; 1 if the response ended by itself; nats per token."""
REWARD, LENGTH = FIGURES.index("reward"), FIGURES.index("response_length")


def episode_figures(rollout: Rollout) -> Tensor:
    """Returns the FIGURES of every episode of a micro-batch, then its rewards one by one: (B, n) float64 on the CPU."""
    kl = (rollout.log_probs - rollout.reference_log_probs).sum(dim=1)
    columns = (rollout.scores, kl, rollout.response_length, rollout.ended, rollout.entropy)
    figures = torch.stack([column.detach().double() for column in columns], dim=1)
    return torch.cat([figures, rollout.reward_parts.double()], dim=1).cpu()


def figure_names(rewards: Sequence[str]) -> list[str]:
    """Returns the names of the `episode_figures`; `rewards` are the names of the rewards, "main" first."""
    return [*FIGURES, *(f"reward/{name}" for name in rewards)]


def case_names(figures: Sequence[str], cases: Sequence[str]) -> dict[str, str]:
    """Returns use case -> its name in the log, where `figure/name` stands for the figure of a use case.

    It is the use case itself with escape sequences written out, unless that would give two figures one name: with a
    further reward "brevity", a use case "brevity" is called "use_case.brevity".

    Args:
        figures: names of all figures, such as reward, reward/main and reward/brevity.
        cases: use cases of the data.
    """
    taken, found = set(figures), {}
    for case in sorted(cases):
        name = printable(case)
        while not taken.isdisjoint(f"{figure}/{name}" for figure in figures):
            name = f"use_case.{name}"
        taken |= {f"{figure}/{name}" for figure in figures}
        found[case] = name
    return found


def rollout_figures(
    rollouts: Sequence[Rollout], targets: Sequence[Target], rewards: Sequence[str], ranks: Ranks
) -> dict[str, float]:
    """Returns means over the episodes of all processes, and how much of the returns the value function explains.

    Args:
        rollouts: one per micro-batch; rewards are logged before shaping and KL penalty.
        targets: of each micro-batch.
        rewards: names of the rewards, "main" first.
        ranks: processes to average over.
    """
    counted, episodes = EpisodeMeans(figure_names(rewards)), torch.cat([episode_figures(one) for one in rollouts])
    for figures in episodes:
        counted.add(figures)
    means = counted.means(ranks.sum)[""] | length_figures(cross_sums(episodes[:, [REWARD, LENGTH]]), ranks)
    masks = [rollout.response_mask for rollout in rollouts]
    returns = [target.returns for target in targets]
    errors = [target - rollout.values for target, rollout in zip(returns, rollouts, strict=True)]
    explained = explained_variance(ranks.masked_moments(errors, masks), ranks.masked_moments(returns, masks))
    return {f"ppo/{name}": mean for name, mean in means.items()} | {"ppo/explained_variance": float(explained)}


def length_figures(sums: Tensor, ranks: Ranks) -> dict[str, float]:
    """Returns how reward and length correlate, and the labeler's score with the reward given the length.

    Args:
        sums: `cross_sums` of reward, length and, if there is a labeler, its score, over episodes of this process.
        ranks: processes to add up.
    """
    found = correlations(ranks.sum(sums)).tolist()
    figures = {"reward_length_correlation": found[0][1]}
    if len(found) > 2:
        given = correlation_given(found[0][2], found[0][1], found[2][1])
        figures["labeler_reward_correlation_given_length"] = given or 0.0
    return figures


def clock_figures(began: float, rollouts: Rollouts, ranks: Ranks) -> dict[str, float]:
    """Returns the speed of an iteration that began at `began` (`time.monotonic()`)."""
    seconds = time.monotonic() - began
    tokens = sum(len(response) for response in rollouts.responses) * ranks.count
    return {
        "ppo/tokens_per_second": tokens / seconds,
        "ppo/sampling_seconds": rollouts.sampled - began,
        "ppo/iteration_seconds": seconds,
    }


class EpisodeMeans:
    """Means of figures over episodes of all processes, overall and by group.

    Args:
        names: of the figures.
        groups: groups that an episode may belong to; they must be the same on every process.
    """

    def __init__(self, names: Sequence[str], groups: Sequence[str] = ()) -> None:
        self.names = list(names)
        self.groups = ["", *groups]
        self.sums = torch.zeros(len(self.groups), 1 + len(self.names), dtype=torch.float64)

    def add(self, figures: Tensor, group: str | None = None) -> None:
        """Counts one episode, (len(names),) float64; an unknown group counts only overall."""
        row = torch.cat([torch.ones(1, dtype=torch.float64), figures])
        self.sums[0] += row
        if group in self.groups[1:]:
            self.sums[self.groups.index(group)] += row

    def means(self, sum_over_processes: Callable[[Tensor], Tensor]) -> dict[str, dict[str, float]]:
        """Returns group -> name -> mean; the group "" has all episodes; empty groups are left out."""
        totals = sum_over_processes(self.sums).tolist()
        return {
            group: {name: total / count for name, total in zip(self.names, row, strict=True)}
            for group, (count, *row) in zip(self.groups, totals, strict=True)
            if count
        }
