"""Validation of PPO: the policy on held-out prompts, overall and by use case."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from lit_instruct.batches import PromptBatch
from lit_instruct.losses.correlation import cross_sums
from lit_instruct.ppo.collect import Collector
from lit_instruct.ppo.figures import (
    LENGTH,
    REWARD,
    EpisodeMeans,
    case_names,
    episode_figures,
    figure_names,
    length_figures,
)
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.prompting import prompt_text
from lit_instruct.rollouts.reward_functions import TextScorer

KEY = 2**31 - 1
"""Takes the iteration's place in the key of the random numbers."""


@dataclass
class Validation:
    """Samples and scores held-out prompts, with the same random numbers at every validation."""

    collector: Collector
    labeler: TextScorer | None
    """Judges the samples beside the reward."""
    seed: int
    ranks: Ranks

    def __post_init__(self) -> None:
        self.samples: dict[int, dict[str, Any]] = {}
        """This process's samples of the last validation, with their scores, by row number."""
        rewards = figure_names([reward.name for reward in self.collector.rewards])
        self.names = [*rewards, *(["labeler"] if self.labeler is not None else [])]
        """Names of the figures."""

    def start(self, use_cases: Sequence[str]) -> None:
        """Forgets the last validation; `use_cases` are those of all held-out prompts."""
        self.samples = {}
        self.means = EpisodeMeans(self.names, use_cases)
        self.sums = torch.zeros(3 + (self.labeler is not None), 3 + (self.labeler is not None), dtype=torch.float64)
        """`cross_sums` of reward, length and the labeler's score."""
        self.case_names = case_names(self.names, use_cases)
        """Use case -> its name in the log."""

    def step(self, batch: PromptBatch, policy: AbstractContextManager[None]) -> None:
        """Samples and scores a batch of held-out prompts.

        Args:
            batch: held-out prompts.
            policy: context in which the policy has the weights to validate.

        Raises:
            UserError: a reward or a label is refused, here or on another process.
        """
        with policy:
            rollouts = self.collector.collect(batch, (self.seed, KEY), whole=True)
        prompts = [row.prompt for row in batch.rows]
        texts = [self.collector.stop.text(ids) for ids in rollouts.responses]
        labeler = self.labeler
        columns = [row.columns() for row in batch.rows]
        labels = self.ranks.agree(lambda: labeler(prompts, texts, columns)) if labeler is not None else None
        for rows, rollout in zip(rollouts.minibatches[0], rollouts.parts, strict=True):
            for row, figures in zip(rows, episode_figures(rollout), strict=True):
                judged = {"labeler": labels[row]} if labels is not None else {}
                all_figures = torch.cat([figures, figures.new_tensor([*judged.values()])])
                self.means.add(all_figures, batch.rows[row].use_case)
                self.sums += cross_sums(all_figures[[REWARD, LENGTH, *([-1] if judged else [])]][None])
                reward, kl, length, *_ = figures.tolist()
                scores = {"reward": round(reward, 3), "kl": round(kl, 2), "length": int(length)} | judged
                sample = {"prompt": prompt_text(prompts[row]), "response": texts[row]} | scores
                self.samples[int(batch.row_number[row])] = sample

    def figures(self) -> dict[str, float]:
        """Returns the means over all processes, overall as val/reward and by use case as val/reward/<use case>.

        `length_figures` are of all prompts.
        """
        related = {f"val/{name}": value for name, value in length_figures(self.sums, self.ranks).items()}
        return related | {
            f"val/{name}/{self.case_names[case]}" if case else f"val/{name}": mean
            for case, figures in self.means.means(self.ranks.sum).items()
            for name, mean in figures.items()
        }
