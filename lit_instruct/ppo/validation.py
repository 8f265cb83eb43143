"""Validation of PPO: the policy on held-out prompts, overall and by use case."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from lit_instruct.batches import PromptBatch
from lit_instruct.ppo.collect import Collector
from lit_instruct.ppo.figures import EpisodeMeans, episode_figures, figure_names
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.prompting import prompt_text
from lit_instruct.rollouts.reward_functions import TextScorer

KEY = 2**31 - 1
"""Stands where the iteration stands in the key of training samples."""


class Validation:
    """Samples and scores held-out prompts.

    Args:
        collector: samples and scores.
        labeler: judges the samples beside the reward; None for none.
        seed: of the random numbers, which are the same at every validation.
        ranks: processes that share the prompts.
    """

    def __init__(self, collector: Collector, labeler: TextScorer | None, seed: int, ranks: Ranks) -> None:
        self.collector = collector
        self.labeler = labeler
        self.seed = seed
        self.ranks = ranks
        self.samples: list[dict[str, Any]] = []
        """Of the last validation on this process, with their scores."""
        self.names = figure_names([reward.name for reward in collector.rewards])
        """Of what is measured."""
        if labeler is not None:
            self.names.append("labeler")

    def start(self, use_cases: Sequence[str]) -> None:
        """Forgets the last validation.

        Args:
            use_cases: of all held-out prompts.
        """
        self.samples = []
        self.means = EpisodeMeans(self.names, use_cases)

    def step(self, batch: PromptBatch, policy: AbstractContextManager[None]) -> None:
        """Counts a batch of prompts.

        Args:
            batch: held-out prompts.
            policy: block in which the policy has the weights to validate.

        Raises:
            UserError: a reward or a label is refused, here or on another process.
        """
        with policy:
            rollouts = self.collector.collect_whole(batch, (self.seed, KEY))
        prompts = [row.prompt for row in batch.rows]
        texts = [self.collector.stop.text(ids) for ids in rollouts.responses]
        labeler = self.labeler
        labels = self.ranks.agree(lambda: labeler(prompts, texts)) if labeler is not None else None
        for rows, rollout in zip(rollouts.minibatches[0], rollouts.parts, strict=True):
            for row, figures in zip(rows, episode_figures(rollout), strict=True):
                judged = {"labeler": labels[row]} if labels is not None else {}
                all_figures = torch.cat([figures, figures.new_tensor([*judged.values()])])
                self.means.add(all_figures, batch.rows[row].use_case)
                reward, kl, *_ = figures.tolist()
                scores = {"reward": round(reward, 3), "kl": round(kl, 2)} | judged
                self.samples.append({"prompt": prompt_text(prompts[row]), "response": texts[row]} | scores)

    def figures(self) -> dict[str, float]:
        """Returns the means over all processes, overall as val/reward and by use case as val/reward/<use case>."""
        return {
            f"val/{name}/{case}" if case else f"val/{name}": mean
            for case, figures in self.means.means(self.ranks.sum).items()
            for name, mean in figures.items()
        }
