"""What PPO measures: the figures of an iteration, and validation on held-out prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lit_instruct.batches import PromptBatch, Rollout
from lit_instruct.errors import UserError
from lit_instruct.losses.policy import explained_variance
from lit_instruct.models.average import WeightAverage
from lit_instruct.models.sharding import whole_weights
from lit_instruct.ppo.collect import Collector
from lit_instruct.ppo.diagnostics import Diagnostics
from lit_instruct.ppo.figures import FIGURES, EpisodeMeans, episode_figures, figure_names
from lit_instruct.ppo.minibatches import sequence_lengths
from lit_instruct.ppo.non_finite import non_finite_rewards
from lit_instruct.ppo.options import RewardOptions
from lit_instruct.ppo.update import PPOUpdate
from lit_instruct.prompting import prompt_text
from lit_instruct.rollouts.reward_functions import TextScorer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from data_modules.prompts import PromptDataModule

log = logging.getLogger(__name__)
Result = TypeVar("Result")
VALIDATION_KEY = 2**31 - 1
"""Stands where the iteration stands in the key of training samples."""


class PPOMeasures(PPOUpdate):
    """The part of `PPOModule` that measures."""

    collector: Collector
    labeler: TextScorer | None
    further_rewards: list[RewardOptions]
    diagnostics: Diagnostics
    average: WeightAverage | None
    """Of the policy's weights, where one is kept; there from the first hook of a fit or validation on."""
    restored_average: list[Tensor] | None
    """Where to start it, after a resume."""
    samples: list[dict[str, Any]]
    """Of the last validation, with their scores."""

    @rank_zero_only
    def _warn(self, faults: list[str]) -> None:
        for fault in faults:
            log.warning("PPO: %s", fault)

    def _start_average(self) -> None:
        """Starts the average of the policy's weights, or takes up that of a checkpoint."""
        decay = self.optimizer_options.ema_decay
        if self.average is not None or decay is None:
            return
        self.average = WeightAverage(self.roles.parameters_of("policy"), decay)
        if self.restored_average is not None:
            self.average.load(self.restored_average)

    def _restore_average(self, averages: list[Tensor] | None) -> None:
        """Notes the average of a checkpoint, or takes it up where FSDP2 has read that after `on_fit_start`."""
        self.restored_average = averages
        if self.average is not None:
            self.average = None
            self._start_average()

    def load_trained_weights(self, path: str) -> dict[str, float]:
        """Takes trained tensors and average of one of this run's checkpoints; returns the metrics of its moment."""
        metrics = super().load_trained_weights(path)
        if self.average is not None:
            self.average.load(self.load_from(path)["ppo"]["average"])
        return metrics

    def shard_networks(self, mesh: DeviceMesh) -> None:
        """Cuts up the networks of all roles; what is refused on one process must not leave others waiting for it."""
        self.roles.shard(mesh, self.frozen_dtype)
        self.collector.on_all = self._on_all

    def gather_weights(self) -> None:
        """Puts weights that lie in pieces together for `hand_over`; every process has to call it."""
        with self._averaged():
            self.whole_weights = whole_weights(self.roles.roles["policy"].network)

    def _averaged(self) -> AbstractContextManager[None]:
        """A block in which the policy is its average, where one is kept."""
        return self.average.in_place() if self.average is not None else nullcontext()

    def _score(self, batch: PromptBatch, responses: list[list[int]], parts: list[list[int]]) -> list[Rollout]:
        """Scores responses, and looks at the rewards before any weight changes."""

        def score() -> list[Rollout]:
            rollouts = self.collector.score(batch, responses, parts)
            self._check_rewards(batch, responses, parts, rollouts)
            return rollouts

        return self._on_all(score)

    def _on_all(self, work: Callable[[], Result]) -> Result:
        """Does something that may be refused; what is refused on one process is refused on all, and none waits."""
        mistake: UserError | None = None
        try:
            result = work()
        except UserError as error:
            mistake = error
        if self.trainer.strategy.reduce_boolean_decision(mistake is not None, all=False):
            raise mistake or UserError("another process stopped, and its message says why")
        return result

    def _check_rewards(
        self, batch: PromptBatch, responses: list[list[int]], parts: list[list[int]], rollouts: list[Rollout]
    ) -> None:
        """Names the first row whose reward is NaN or infinite."""
        wrong = non_finite_rewards(rollouts, parts, self._figure_names[len(FIGURES) :])
        if not wrong:
            return
        fault, row = wrong[0]
        prompt, response = prompt_text(batch.rows[row].prompt), self.collector.stop.text(responses[row])
        self._save_for_a_look(rollouts, None, [fault for fault, _ in wrong])
        where = f"row {row} of the batch (prompt {prompt[:60]!r}, response {response[:60]!r})"
        what = f"iteration {self.iterations_done + 1}: {fault} for {where}"
        if self.optimizer_options.on_non_finite == "stop":
            raise UserError(
                f"{what}; the episodes are in {self.saved_for_a_look}; mend the reward, or skip such steps with "
                "--model.optimizer.on_non_finite=skip"
            )
        log.warning("%s; steps with it are skipped, the episodes are in %s", what, self.saved_for_a_look)

    def on_validation_epoch_start(self) -> None:
        """Starts collecting."""
        self._start_average()
        data: PromptDataModule = self.trainer.datamodule
        cases = sorted({row.use_case for row in data.validation_rows if row.use_case})
        self.samples = []
        self.collected = EpisodeMeans([*self._figure_names, *(["labeler"] if self.labeler else [])], cases)

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Samples and scores held-out prompts with random numbers that are the same at every validation."""
        with self._averaged():
            responses = self.collector.sample(batch, (self.seed, VALIDATION_KEY))
            parts = self._micro_batches([*range(len(responses))], sequence_lengths(batch, responses))
            rollouts = self._score(batch, responses, parts)
        prompts, texts = [row.prompt for row in batch.rows], [self.collector.stop.text(ids) for ids in responses]
        labels = self._on_all(partial(self.labeler, prompts, texts)) if self.labeler is not None else None
        for rows, rollout in zip(parts, rollouts, strict=True):
            for row, figures in zip(rows, episode_figures(rollout), strict=True):
                judged = {"labeler": labels[row]} if labels is not None else {}
                all_figures = torch.cat([figures, figures.new_tensor([*judged.values()])])
                self.collected.add(all_figures, batch.rows[row].use_case)
                reward, kl, *_ = figures.tolist()
                scores = {"reward": round(reward, 3), "kl": round(kl, 2)} | judged
                self.samples.append({"prompt": prompt_text(prompts[row]), "response": texts[row]} | scores)

    def on_validation_epoch_end(self) -> None:
        """Logs the means over all processes, overall as val/reward and by use case as val/reward/<use case>."""
        means = self.collected.means(self._sum_over_processes)
        figures = {
            f"val/{name}/{case}" if case else f"val/{name}": mean
            for case, figures in means.items()
            for name, mean in figures.items()
        }
        self.log_dict(figures)
        if not self.trainer.sanity_checking:
            self._warn(self.diagnostics.validation(figures))

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Measures the same as validation."""
        self.validation_step(batch, batch_idx)

    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    @property
    def _figure_names(self) -> list[str]:
        return figure_names([reward.name for reward in self.further_rewards])

    def _rollout_metrics(self, rollouts: list[Rollout], targets: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Means over the episodes of all processes; rewards are as they came, before KL and penalties."""
        counted = EpisodeMeans(self._figure_names)
        for rollout in rollouts:
            for figures in episode_figures(rollout):
                counted.add(figures)
        means = counted.means(self._sum_over_processes)[""]
        metrics = {f"ppo/{name}": mean for name, mean in means.items()}
        returns = [returns for _, returns in targets]
        errors = [target - rollout.values for target, rollout in zip(returns, rollouts, strict=True)]
        moments = self._moments(errors, rollouts), self._moments(returns, rollouts)
        metrics["ppo/explained_variance"] = float(explained_variance(*moments))
        metrics["ppo/advantage_std"] = self.advantage_std
        metrics["ppo/kl_coef"] = self.kl_coef
        metrics["ppo/learning_rate"] = self.lr_schedulers().get_last_lr()[0]
        return metrics
