"""Step 3: proximal policy optimisation against the reward model (section 3.5, eq. 2, C.4)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from peft import PeftModel
from torch import Tensor

from lit_instruct.batches import PromptBatch, Rollout
from lit_instruct.errors import UserError
from lit_instruct.handover import check_same_format, find_parent, read_stage_of
from lit_instruct.losses.divergence import adapted_kl_coef
from lit_instruct.losses.masked import Moments
from lit_instruct.losses.policy import explained_variance
from lit_instruct.models.assemble import ValueKind, ppo_roles, shares_base
from lit_instruct.models.average import WeightAverage
from lit_instruct.models.loading import DtypeName, Source, find_source
from lit_instruct.models.lora import LoraOptions, save_adapter
from lit_instruct.prompting import prompt_text
from lit_instruct.rollouts.collect import Collector, FurtherReward, TextScorer
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.rewards import text_scorer
from lit_instruct.stages.base import PromptOptions
from lit_instruct.stages.ppo_diagnostics import Diagnostics, uncalibrated
from lit_instruct.stages.ppo_metrics import EpisodeMeans, episode_figures, figure_names
from lit_instruct.stages.ppo_minibatches import cut_minibatches, minibatch_order, regroup
from lit_instruct.stages.ppo_options import (
    KLControlOptions,
    PPOOptimizerOptions,
    PPOOptions,
    PretrainingOptions,
    RewardOptions,
    ShapingOptions,
)
from lit_instruct.stages.ppo_update import PPOUpdate

if TYPE_CHECKING:
    from data_modules.prompts import PromptDataModule

log = logging.getLogger(__name__)
VALIDATION_KEY = 2**31 - 1
"""Stands where the iteration stands in the key of training samples."""


class PPOModule(PPOUpdate):
    """Optimises a policy against a reward with a KL penalty; one training step is one iteration of PPO.

    Args:
        base: SFT model to start from and to stay close to, by default the SFT stage of the same run.
        reward: reward model: a stage folder or a hub sequence classifier; null with `reward_function`.
        reward_function: import path of a Python function list[(prompt, response)] -> list[float] to use instead.
        further_rewards: rewards that are added to the main one.
        labeler: import path of a Python function list[(prompt, response)] -> list[float] that judges the validation
            samples beside the reward, as val/labeler.
        iterations: length of the training.
        lora: adapter options of the policy; null trains every weight.
        ppo: the objective.
        shaping: what happens to scores before they become advantages, and what else is in the loss.
        kl_control: what holds the divergence beside its price.
        optimizer: learning rates.
        sampling: how responses are sampled.
        pretraining: the pretraining mix; needs --data.pretraining_path.
        prompt: prompt format; that of the SFT stage where `base` is one.
        dtype: of frozen weights; auto is bfloat16 where the device computes in it.
        generation_batch_size: prompts decoded side by side.
        value: the value function starts as a copy of the reward model as in the paper; or as a copy whose head is zero,
            for short trainings (what a reward model says of half a response means little); or as a head on the
            policy's trunk, which is cheapest.
        seed: of everything random.
    """

    def __init__(
        self,
        base: str = "{run}/sft",
        reward: str | None = "{run}/rm",
        reward_function: str | None = None,
        further_rewards: Sequence[RewardOptions] = (),
        labeler: str | None = None,
        iterations: int = 100,
        lora: LoraOptions | None = LoraOptions(),
        ppo: PPOOptions = PPOOptions(),
        shaping: ShapingOptions = ShapingOptions(),
        kl_control: KLControlOptions = KLControlOptions(),
        optimizer: PPOOptimizerOptions = PPOOptimizerOptions(),
        sampling: SamplingOptions = SamplingOptions(),
        pretraining: PretrainingOptions = PretrainingOptions(),
        prompt: PromptOptions | None = None,
        dtype: DtypeName = "auto",
        generation_batch_size: int = 32,
        value: ValueKind = "reward_model",
        seed: int = 0,
    ) -> None:
        super().__init__("ppo", base, lora, dtype, prompt, seed)
        if reward_function is None and reward is None:
            raise UserError("--model.reward: give a reward model, or a function by --model.reward_function")
        self.automatic_optimization = False
        self.reward_name = None if reward_function else reward
        self.reward_function = reward_function
        self.further_rewards = list(further_rewards)
        self.labeler = text_scorer(None, labeler) if labeler is not None else None
        self.iterations = iterations
        self.options = ppo
        self.shaping = shaping
        self.kl_control = kl_control
        self.optimizer_options = optimizer
        self.sampling = sampling
        self.pretraining = pretraining
        self.generation_batch_size = generation_batch_size
        self.value_kind: ValueKind = value
        self.parents = {"sft": base} | ({"reward": reward} if self.reward_name and reward else {})
        self.iterations_done = 0
        self.episodes_done = 0
        self.kl_coef = ppo.kl_coef
        self.score_moments = Moments(*torch.zeros(3, dtype=torch.float64))
        self.average: WeightAverage | None = None
        self.restored_average: list[Tensor] | None = None
        self.diagnostics = Diagnostics(sampling.max_new_tokens)
        self.samples: list[dict[str, Any]] = []

    @cached_property
    def reward_source(self) -> Source | None:
        """Where the reward model lies; None for a function."""
        if self.reward_name is None:
            return None
        if self.reward_name.rstrip("/").endswith("rm"):
            return find_parent(self.reward_name, "rm", "ppo")
        return find_source(self.reward_name)

    @property
    def monitor(self) -> None:
        """No metric chooses a checkpoint: the last policy is the result."""
        return None

    def setup(self, stage: str) -> None:
        """Builds the four roles and what samples and scores with them."""
        if hasattr(self, "roles"):
            return
        if stage == "fit":
            self._check_data()
        torch.manual_seed(self.seed)
        reward = self.reward_source
        scorer = self._reward_from_outside()
        parent = read_stage_of(reward) if reward is not None else None
        if reward is not None and scorer is None:
            check_same_format(self.prompter, parent, reward.name, f"make rm RUN={Path(reward.name).parent.name}")
        bias = (parent.reward_bias if parent is not None else None) or 0.0
        if stage == "fit" and parent is not None and not self.shaping.normalize_rewards:
            self._warn([text for text in (uncalibrated(parent.reward_bias),) if text])
        self.roles = ppo_roles(self.source, reward, self.lora, self.frozen_dtype, bias, self.value_kind)
        self.collector = Collector(
            self.roles,
            self.prompter,
            self.sampling,
            scorer,
            bias,
            self.options.missing_eos_penalty,
            self.generation_batch_size,
            [FurtherReward(r.name, r.weight, text_scorer(r.model, r.function)) for r in self.further_rewards],
        )

    def on_fit_start(self) -> None:
        """Starts the clock and checks the trunk cache on the device it will run on."""
        super().on_fit_start()
        self.roles.check_trunk(self.device)
        if self.optimizer_options.ema_decay is not None:
            self.average = WeightAverage(self.roles.parameters_of("policy"), self.optimizer_options.ema_decay)
            if self.restored_average is not None:
                self.average.load(self.restored_average)

    def configure_optimizers(self) -> dict[str, Any]:
        """Returns one AdamW with a parameter group for each trained role, and its schedule over iterations."""
        options = self.optimizer_options
        groups = [
            {"params": self.roles.parameters_of("policy"), "lr": options.learning_rate},
            {"params": self.roles.parameters_of("value"), "lr": options.value_learning_rate},
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, options.beta2), weight_decay=options.weight_decay)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, options.share),
        }

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """One iteration: roll out, score, turn scores into advantages, update."""
        began = time.monotonic()
        minibatches = self._minibatches(batch)
        parts = [part for minibatch in minibatches for part in minibatch]
        responses = self.collector.sample(batch, (self.seed, self.iterations_done))
        sampled = time.monotonic()
        self.first_ratio_error = 0.0
        rollouts = self._shape(self.collector.score(batch, responses, parts))
        targets = self._targets(rollouts)
        grouped = regroup(list(zip(rollouts, targets, strict=True)), minibatches)
        losses = [
            self._update(grouped[number])
            for epoch in range(self.options.inner_epochs)
            for number in minibatch_order(self.options.minibatches, self._iteration_key() * 31 + epoch)
        ]
        self.lr_schedulers().step()
        if self.average is not None:
            self.average.update()
        self.iterations_done += 1
        self.episodes_done += len(responses) * self.trainer.world_size
        tokens = sum(len(response) for response in responses)
        metrics = self._rollout_metrics(rollouts, targets)
        metrics |= {name: sum(loss[name] for loss in losses) / len(losses) for name in losses[0]}
        metrics |= {
            "ppo/iteration": float(self.iterations_done),
            "ppo/episodes": float(self.episodes_done),
            "ppo/first_ratio_error": self.first_ratio_error,
            "ppo/tokens_per_second": tokens * self.trainer.world_size / (time.monotonic() - began),
            "ppo/sampling_seconds": sampled - began,
            "ppo/iteration_seconds": time.monotonic() - began,
        }
        self.log_dict(metrics)
        self._warn(self.diagnostics.iteration(metrics))
        self._control_kl(metrics["ppo/kl"])
        if self.iterations_done >= self.iterations:
            self.trainer.should_stop = True

    @rank_zero_only
    def _warn(self, faults: list[str]) -> None:
        for fault in faults:
            log.warning("PPO: %s", fault)

    def _control_kl(self, kl: float) -> None:
        """Adapts the price of divergence to its target, and acts where the bound was passed."""
        control = self.kl_control
        if control.target is not None:
            self.kl_coef = adapted_kl_coef(self.kl_coef, kl, control.target, control.gain)
        if control.bound is None or kl <= control.bound:
            return
        what = f"iteration {self.iterations_done}: KL {kl:.1f} nats passed --model.kl_control.bound={control.bound}"
        if control.on_bound == "stop":
            log.warning("%s; the training ends here", what)
            self.trainer.should_stop = True
        else:
            log.warning("%s; the policy's learning rate is halved", what)
            self.lr_schedulers().base_lrs[0] /= 2

    def on_validation_epoch_start(self) -> None:
        """Starts collecting."""
        data: PromptDataModule = self.trainer.datamodule
        cases = sorted({row.use_case for row in data.validation_rows if row.use_case})
        self.samples = []
        self.collected = EpisodeMeans([*self._figure_names, *(["labeler"] if self.labeler else [])], cases)

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Samples and scores held-out prompts with random numbers that are the same at every validation."""
        with self.average.in_place() if self.average is not None else nullcontext():
            responses = self.collector.sample(batch, (self.seed, VALIDATION_KEY))
            size = self.options.micro_batch_size
            order = batch.prompt_mask.sum(dim=1).argsort(stable=True).tolist()
            parts = [order[start : start + size] for start in range(0, len(order), size)]
            rollouts = self.collector.score(batch, responses, parts)
        prompts, texts = [row.prompt for row in batch.rows], [self.collector.stop.text(ids) for ids in responses]
        labels = self.labeler(prompts, texts) if self.labeler is not None else None
        for rows, rollout in zip(parts, rollouts, strict=True):
            for row, figures in zip(rows, episode_figures(rollout), strict=True):
                judged = [labels[row]] if labels is not None else []
                self.collected.add(torch.cat([figures, figures.new_tensor(judged)]), batch.rows[row].use_case)
                reward, kl, *_ = figures.tolist()
                sample = {"prompt": prompt_text(prompts[row]), "response": texts[row]}
                self.samples.append(sample | {"reward": round(reward, 3), "kl": round(kl, 2)})

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the counters that random numbers and schedules depend on."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["ppo"] = {
            "iterations_done": self.iterations_done,
            "episodes_done": self.episodes_done,
            "kl_coef": self.kl_coef,
            "score_moments": [float(moment) for moment in self.score_moments],
            "average": self.average.averages if self.average is not None else None,
            "diagnostics": self.diagnostics.state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the counters up again."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["ppo"]
        self.iterations_done, self.episodes_done = saved["iterations_done"], saved["episodes_done"]
        if self.kl_control.target is not None:
            self.kl_coef = saved["kl_coef"]
        self.score_moments = Moments(*torch.tensor(saved["score_moments"], dtype=torch.float64))
        self.restored_average = saved["average"]
        self.diagnostics.load(saved["diagnostics"])

    def save_model(self, folder: Path) -> None:
        """Writes the policy, or its average over the training where one is kept: its adapter, or the whole model."""
        with self.average.in_place() if self.average is not None else nullcontext():
            self._save_policy(folder)

    def _save_policy(self, folder: Path) -> None:
        network, adapter = self.roles.roles["policy"].network, self.roles.roles["policy"].adapter
        if isinstance(network, PeftModel) and adapter is not None:
            save_adapter(network, adapter, folder)
        else:
            network.save_pretrained(str(folder))

    def revision(self) -> str | None:
        """Returns the hub commit of the base, where it has one."""
        return getattr(self.roles.language_model("policy").config, "_commit_hash", None)

    def _check_data(self) -> None:
        data: PromptDataModule = self.trainer.datamodule
        if self.options.minibatches > data.batch_size:
            raise UserError(
                f"--model.ppo.minibatches={self.options.minibatches}: more than the {data.batch_size} prompts of "
                "--data.batch_size; lower it"
            )
        if self.pretraining.ptx_coef and data.pretraining is None:
            raise UserError("--model.pretraining.ptx_coef: needs a text to mix in; give --data.pretraining_path")

    def _reward_from_outside(self) -> TextScorer | None:
        """A scorer of text where the reward is a function, or a model that is no adapter on the policy's base."""
        if self.reward_function is None and self.lora is not None and shares_base(self.source, self.reward_source):
            return None
        return text_scorer(self.reward_name, self.reward_function)

    @property
    def _figure_names(self) -> list[str]:
        return figure_names([reward.name for reward in self.further_rewards])

    def _iteration_key(self) -> int:
        return self.seed * 1_000_003 + self.iterations_done

    def _minibatches(self, batch: PromptBatch) -> list[list[list[int]]]:
        """Returns the local rows of each minibatch, cut into micro-batches."""
        local = len(batch.rows)
        return cut_minibatches(
            batch.prompt_mask.sum(dim=1),
            self.options.minibatches,
            self.options.micro_batch_size,
            self._iteration_key(),
            self.trainer.global_rank * local,
            local * self.trainer.world_size,
        )

    def _rollout_metrics(self, rollouts: list[Rollout], targets: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Means over the episodes of all processes; rewards are the reward model's, before KL and penalties."""
        counted = EpisodeMeans(self._figure_names)
        for rollout in rollouts:
            for figures in episode_figures(rollout):
                counted.add(figures)
        means = counted.means(self._sum_over_processes)[""]
        metrics = {f"ppo/{name}": mean for name, mean in means.items()}
        flat = [
            torch.cat([part[rollout.response_mask].cpu() for part, rollout in zip(parts, rollouts, strict=True)])
            for parts in ([r.values for r in rollouts], [returns for _, returns in targets])
        ]
        metrics["ppo/explained_variance"] = float(explained_variance(*flat))
        metrics["ppo/advantage_std"] = self.advantage_std
        metrics["ppo/kl_coef"] = self.kl_coef
        metrics["ppo/learning_rate"] = self.lr_schedulers().get_last_lr()[0]
        return metrics
