"""Step 3: proximal policy optimisation against the reward model (section 3.5, eq. 2, C.4)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from lit_instruct.batches import PromptBatch
from lit_instruct.errors import UserError
from lit_instruct.handover import bits_of, check_same_format, find_parent, read_stage_of
from lit_instruct.losses.masked import Moments
from lit_instruct.models.activations import MemoryOptions
from lit_instruct.models.assemble import ValueKind, ppo_roles, shares_base
from lit_instruct.models.average import WeightAverage
from lit_instruct.models.loading import DtypeName, Source, find_source
from lit_instruct.models.lora import LoraOptions, save_adapter
from lit_instruct.models.optimizers import make_optimizer
from lit_instruct.models.quantised import Quantize
from lit_instruct.ppo.checks import check_options
from lit_instruct.ppo.collect import Collector, FurtherReward
from lit_instruct.ppo.diagnostics import Diagnostics, uncalibrated
from lit_instruct.ppo.minibatches import minibatch_order, regroup
from lit_instruct.ppo.options import (
    KLControlOptions,
    PPOOptimizerOptions,
    PPOOptions,
    PretrainingOptions,
    RewardOptions,
    SelectionOptions,
    ShapingOptions,
)
from lit_instruct.ppo.validation import PPOMeasures
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.reward_functions import TextScorer, function_scorer
from lit_instruct.rollouts.text_reward import model_scorer
from lit_instruct.stages.base import PromptOptions
from lit_instruct.stages.resume import options_of


class PPOModule(PPOMeasures):
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
        selection: which policy of the training is handed over, and when the training may end early.
        prompt: prompt format; that of the SFT stage where `base` is one.
        dtype: of frozen weights; auto is bfloat16 where the device computes in it.
        quantize: of frozen bases, separate reward models' too: none, 8bit (LLM.int8) or 4bit (NF4, double
            quantisation); never of heads.
        memory: what is done to keep less in the device's memory.
        generation_batch_size: prompts decoded side by side.
        merge_for_rollouts: the policy's adapter is folded into the weights for the time of a rollout; false decodes
            through the adapter, which is slower and saves a second copy of the adapted weights. Bases in 8 or 4 bits
            are never merged, and without LoRA there is nothing to merge.
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
        selection: SelectionOptions = SelectionOptions(),
        prompt: PromptOptions | None = None,
        dtype: DtypeName = "auto",
        quantize: Quantize = "none",
        memory: MemoryOptions = MemoryOptions(),
        generation_batch_size: int = 32,
        merge_for_rollouts: bool = True,
        value: ValueKind = "reward_model",
        seed: int = 0,
    ) -> None:
        super().__init__("ppo", base, lora, dtype, prompt, seed, quantize, memory)
        if reward_function is None and reward is None:
            raise UserError("--model.reward: give a reward model, or a function by --model.reward_function")
        self.automatic_optimization = False
        self.reward_name = None if reward_function else reward
        self.reward_function = reward_function
        self.further_rewards = list(further_rewards)
        self.labeler = function_scorer(labeler) if labeler is not None else None
        self.iterations = iterations
        self.options = ppo
        self.shaping = shaping
        self.kl_control = kl_control
        self.optimizer_options = optimizer
        self.sampling = sampling
        self.pretraining = pretraining
        self.selection = selection
        self.patience = selection.patience
        self.generation_batch_size = generation_batch_size
        self.merge_for_rollouts = merge_for_rollouts
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
    def monitor(self) -> tuple[str, str] | None:
        """The metric that chooses the best checkpoint, and its direction; None where the last policy is the result."""
        return (self.selection.metric, self.selection.mode) if self.selection.metric is not None else None

    def setup(self, stage: str) -> None:
        """Builds the four roles and what samples and scores with them."""
        if hasattr(self, "roles"):
            return
        check_options(self, self.trainer.datamodule, training=stage == "fit")
        quantised = self.quantised()
        torch.manual_seed(self.seed)
        reward = self.reward_source
        scorer = self._reward_from_outside()
        parent = read_stage_of(reward) if reward is not None else None
        if reward is not None and scorer is None:
            check_same_format(self.prompter, parent, reward.name, f"make rm RUN={Path(reward.name).parent.name}")
        bias = (parent.reward_bias if parent is not None else None) or 0.0
        if stage == "fit" and parent is not None and not self.shaping.normalize_rewards:
            self._warn([text for text in (uncalibrated(parent.reward_bias),) if text])
        if reward is not None and scorer is None:
            bits_of(reward, self.quantize)
        self.roles = ppo_roles(self.source, reward, self.lora, self.frozen_dtype, bias, self.value_kind, quantised)
        self.keep_less_memory(self.roles)
        self.collector = Collector(
            self.roles,
            self.prompter,
            self.sampling,
            scorer,
            bias,
            self.options.missing_eos_penalty,
            self.generation_batch_size,
            [FurtherReward(r.name, r.weight, self._scorer(r.model, r.function)) for r in self.further_rewards],
            self.merge_for_rollouts,
        )

    def on_fit_start(self) -> None:
        """Starts the clock and checks the trunk cache on the device it will run on."""
        super().on_fit_start()
        self.roles.check_trunk(self.device)
        self._start_average()

    def configure_optimizers(self) -> dict[str, Any]:
        """Returns one optimizer with a parameter group for each trained role, and its schedule over iterations."""
        options = self.optimizer_options
        groups = [
            {"params": self.roles.parameters_of("policy"), "lr": options.learning_rate},
            {"params": self.roles.parameters_of("value"), "lr": options.value_learning_rate},
        ]
        optimizer = make_optimizer(options.name, groups, options.learning_rate, options.beta2, options.weight_decay)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, options.share),
        }

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """One iteration: roll out, score, turn scores into advantages, update."""
        began = time.monotonic()
        responses = self.collector.sample(batch, (self.seed, self.iterations_done))
        sampled = time.monotonic()
        minibatches = self._minibatches(batch, responses)
        parts = [part for minibatch in minibatches for part in minibatch]
        self.first_ratio_error, self.skipped_steps, self.saved_for_a_look = 0.0, 0, None
        rollouts = self._shape(self._score(batch, responses, parts))
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
            "ppo/skipped_steps": float(self.skipped_steps),
            "ppo/tokens_per_second": tokens * self.trainer.world_size / (time.monotonic() - began),
            "ppo/sampling_seconds": sampled - began,
            "ppo/iteration_seconds": time.monotonic() - began,
        }
        self.log_dict(metrics)
        if not self.skipped_steps:  # NaN says nothing about the training
            self._warn(self.diagnostics.iteration(metrics))
            self._control_kl(metrics["ppo/kl"])
        if self.iterations_done >= self.iterations:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the counters that random numbers and schedules depend on."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["ppo"] = {
            "iterations_done": self.iterations_done,
            "episodes_done": self.episodes_done,
            "kl_coef": self.kl_coef,
            "first_kl_coef": self.options.kl_coef,
            "score_moments": [float(moment) for moment in self.score_moments],
            "average": self.average.state() if self.average is not None else None,
            "diagnostics": self.diagnostics.state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the counters up again."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["ppo"]
        self.iterations_done, self.episodes_done = saved["iterations_done"], saved["episodes_done"]
        if self.trainer.state.fn == "fit":
            self._check_iterations()
        if self.kl_control.target is not None and saved["first_kl_coef"] == self.options.kl_coef:
            self.kl_coef = saved["kl_coef"]
        self.score_moments = Moments(*torch.tensor(saved["score_moments"], dtype=torch.float64))
        self._restore_average(saved["average"])
        self.diagnostics.load(saved["diagnostics"])

    def options_given(self) -> dict[str, Any]:
        """Returns every option of the run, the models it starts from by when they were made."""
        return options_of(self.given, self.trainer, {"base": self.source, "reward": self.reward_source})

    def _check_iterations(self) -> None:
        """Refuses to train for less than the checkpoint already has, and notes whether that is all."""
        if self.iterations_done > self.iterations:
            raise UserError(
                f"--model.iterations={self.iterations}: the checkpoint has {self.iterations_done}; give as many or more"
            )
        self.trainer.should_stop = self.trainer.should_stop or self.iterations_done == self.iterations

    def save_model(self, folder: Path) -> None:
        """Writes the policy, or its average over the training where one is kept: its adapter, or the whole model."""
        network, adapter = self.roles.roles["policy"].network, self.roles.roles["policy"].adapter
        with self._averaged():
            if isinstance(network, PeftModel) and adapter is not None:
                save_adapter(network, adapter, folder)
            else:
                network.save_pretrained(str(folder), state_dict=self.whole_weights)

    def revision(self) -> str | None:
        """Returns the hub commit of the base, where it has one."""
        return getattr(self.roles.language_model("policy").config, "_commit_hash", None)

    def _reward_from_outside(self) -> TextScorer | None:
        """A scorer of text where the reward is a function, or a model that is no adapter on the policy's base."""
        if self.reward_function is None and self.lora is not None and shares_base(self.source, self.reward_source):
            return None
        return self._scorer(self.reward_name, self.reward_function)

    def _scorer(self, model: str | None, function: str | None) -> TextScorer:
        """A scorer of text; NaN from it is looked at where all rewards are."""
        if function is not None:
            return function_scorer(function, finite=False)
        assert model is not None
        return model_scorer(model, self.dtype_name, self.quantize, self.trainer.strategy.root_device, self.mesh())
