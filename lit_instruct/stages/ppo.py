"""Step 3: proximal policy optimisation against the reward model (section 3.5, eq. 2, C.4)."""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from data_modules.prompts import PromptDataModule
from lit_instruct.batches import PromptBatch
from lit_instruct.handover import stage_or_model
from lit_instruct.lightning_private import forget_last_step, is_compiled
from lit_instruct.models.assemble import ppo_roles, shares_base, start_policy
from lit_instruct.models.dtype import DtypeName
from lit_instruct.models.loading import Source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.optimizers import make_optimizer
from lit_instruct.models.quantised import Quantisation, Quantize
from lit_instruct.models.roles import reward_role
from lit_instruct.ppo.average import PolicyAverage
from lit_instruct.ppo.checks import check_engine, check_iterations, check_run, check_training
from lit_instruct.ppo.collect import Reward
from lit_instruct.ppo.diagnostics import Diagnostics, warn
from lit_instruct.ppo.ensemble import Ensemble, check_ensemble, ensemble_of
from lit_instruct.ppo.figures import clock_figures, rollout_figures
from lit_instruct.ppo.kl import LENGTH, KLController
from lit_instruct.ppo.objective import KLOptions, ObjectiveOptions, ValueOptions
from lit_instruct.ppo.options import (
    PPOMemoryOptions,
    PPOOptimizerOptions,
    PPOOptions,
    PretrainingOptions,
    RewardOptions,
    SelectionOptions,
)
from lit_instruct.ppo.parts import build_parts, rewards_of
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.rollouts.engine_options import RolloutOptions
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.reward_functions import TextScorer
from lit_instruct.rollouts.text_reward import model_scorer
from lit_instruct.stages.base import StageModule
from lit_instruct.stages.options import PromptOptions
from lit_instruct.stages.ppo_state import progress_figures, restore_state, saved_state
from lit_instruct.stages.resume import options_of

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class PPOModule(StageModule):
    """Optimises a policy against a reward with a KL penalty; one training step is one iteration of PPO.

    Args:
        base: SFT model to start from and to stay close to, by default the SFT stage of the same run.
        iterations: number of iterations.
        lora: adapter options of the policy; null trains every weight.
        objective: the clipped objective, and how often a batch of rollouts is used.
        kl: the KL penalty to the SFT model, and its control.
        reward: where scores come from, and how they are shaped.
        value: the value function and its loss.
        optimizer: learning rate of the policy, and the settings that policy and value share.
        sampling: how responses are sampled.
        pretraining: the pretraining mix; needs --data.pretraining_path.
        selection: which policy is handed over, and when the training may end early.
        prompt: prompt format; that of the SFT stage if `base` is one.
        dtype: dtype of frozen weights; auto is bfloat16 on GPUs that compute in it, on a CPU if it is fast.
        quantize: quantisation of frozen bases (separate reward models too, heads never): none, 8bit (LLM.int8) or 4bit
            (NF4, double quantisation).
        memory: what is kept in device memory at one time.
        seed: seed of all random numbers.
        rollouts: where responses are sampled.
    """

    stage = "ppo"
    data_type = PromptDataModule

    def __init__(
        self,
        base: str = "{run}/sft",
        iterations: int = 100,
        lora: LoraOptions | None = LoraOptions(),
        objective: ObjectiveOptions = ObjectiveOptions(),
        kl: KLOptions = KLOptions(),
        reward: RewardOptions = RewardOptions(),
        value: ValueOptions = ValueOptions(),
        optimizer: PPOOptimizerOptions = PPOOptimizerOptions(),
        sampling: SamplingOptions = SamplingOptions(),
        pretraining: PretrainingOptions = PretrainingOptions(),
        selection: SelectionOptions = SelectionOptions(),
        prompt: PromptOptions | None = None,
        dtype: DtypeName = "auto",
        quantize: Quantize = "none",
        memory: PPOMemoryOptions = PPOMemoryOptions(),
        seed: int = 0,
        rollouts: RolloutOptions = RolloutOptions(),
    ) -> None:
        super().__init__(base, lora, dtype, prompt, seed, quantize, memory)
        check_iterations(iterations, value.warmup_iterations)
        self.automatic_optimization = False
        self.iterations = iterations
        topics = (objective, kl, reward, value, optimizer, sampling, pretraining, selection, memory, rollouts)
        self.options = PPOOptions(*topics)
        self.optimizer_options = optimizer
        self.patience = selection.patience
        models = {reward_role(member): name for member, name in enumerate(reward.models)}
        self.parents = {"sft": self.source_name} | models
        self.iterations_done = self.episodes_done = 0
        self.kl = KLController(kl)
        self.average = PolicyAverage(optimizer.ema_decay)
        self.diagnostics = Diagnostics(sampling.max_new_tokens)

    @cached_property
    def reward_sources(self) -> list[Source]:
        """Where the reward models lie; empty for a function."""
        return [stage_or_model(name, "rm", "ppo") for name in self.options.reward.models]

    @property
    def monitor(self) -> tuple[str, str] | None:
        """The metric that chooses the best checkpoint, and its direction; None if the last policy is the result."""
        selection = self.options.selection
        return (selection.metric, selection.mode) if selection.metric is not None else None

    def setup(self, stage: str) -> None:
        """Builds the four roles, and the parts of an iteration on them."""
        super().setup(stage)
        options, sources = self.options, self.reward_sources
        check_run(options, self.source, sources, self.prompter, self.data)
        check_engine(options, self.lora, self.quantize)
        check_ensemble(self.source, sources, self.lora is not None)
        if stage == "fit":
            check_training(options, self.lora is not None and is_compiled(self), self.data)
        if hasattr(self, "collector"):
            return
        quantised = self.quantised()
        torch.manual_seed(self.seed)
        shared = self.lora is not None and sources != [] and shares_base(self.source, sources[0])
        rewards = rewards_of(options.reward, shared, self._open_reward)
        ensemble = ensemble_of(options.reward, sources, shared, self.prompter, self.quantize, stage == "fit")
        self.build(ensemble.biases[0], quantised)
        self.keep_less_memory(self.roles)
        self.compose(rewards, ensemble)

    def teardown(self, stage: str) -> None:
        """Leaves nothing on the servers of rollouts, and the Trainer as it was."""
        self.collector.engine.close()
        super().teardown(stage)

    def build(self, bias: float = 0.0, *bits: Quantisation | None) -> None:
        """Builds the roles, unless they are there, with a policy that was loaded; `bias` is that of the rewards."""
        if not hasattr(self, "roles"):
            sources, start, dtype = self.reward_sources, self.options.value.start, self.frozen_dtype
            self.roles = ppo_roles(self.source, sources, self.lora, dtype, bias, start, *(bits or [self.quantised()]))
            if hasattr(self, "network"):
                start_policy(self.result(), self.network)
                del self.network

    def compose(self, rewards: list[Reward], ensemble: Ensemble) -> None:
        """Builds the parts of an iteration around the roles; `ensemble` combines the scores of the reward roles."""
        self.ranks = ranks = Ranks(self.roles, self.trainer.strategy)
        options, roles, prompter, data = self.options, self.roles, self.prompter, self.data
        folder = Path(self.trainer.default_root_dir)
        self.guard, self.collector, self.targets, self.updater, self.validation = build_parts(
            options, roles, prompter, rewards, ensemble, data, ranks, folder, self.offloading, self.seed
        )

    def on_fit_start(self) -> None:
        """Starts the clock and the average, packs frozen layers, and checks the trunk cache on the training device."""
        super().on_fit_start()
        self.roles.pack_frozen()
        self.roles.check_trunk(self.device)
        self.average.start(self.roles.parameters_of("policy"))

    def configure_optimizers(self) -> dict[str, Any]:
        """Returns one optimizer with a parameter group for each trained role, and its schedule over iterations."""
        options = self.optimizer_options
        groups = [
            {"params": self.roles.parameters_of("policy"), "lr": options.learning_rate},
            {"params": self.roles.parameters_of("value"), "lr": self.options.value.learning_rate},
        ]
        optimizer = make_optimizer(options.name, groups, options.learning_rate, options.beta2, options.weight_decay)
        first = self.options.value.warmup_iterations  # the policy's own warmup begins with its first step
        shares = [lambda iteration: options.share(max(0, iteration - first)), options.share]
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, shares)}

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """One iteration: maximises E[r(x, y) - beta log(pi(y|x) / pi_SFT(y|x))] + gamma E[log pi(x)] (eq. 2)."""
        began, key = time.monotonic(), (self.seed, self.iterations_done)
        self.guard.begin(self.iterations_done + 1, f"iteration-{self.iterations_done + 1}")
        rollouts = self.collector.collect(batch, key)  # y ~ policy; log-probs of policy and reference, values, rewards
        targets, spread = self.targets(rollouts.parts, self.kl.coef, rollouts.rows)  # r - beta KL, GAE, whitened
        figures = rollout_figures(rollouts.parts, targets, self.options.reward.names, self.ranks)
        figures |= {"ppo/advantage_std": spread, "ppo/kl_coef": self.kl.coef} | rollouts.mismatch
        if self.kl.reaches_budget(figures["ppo/kl"]):
            self.end_as_measured(figures | clock_figures(began, rollouts, self.ranks))
            return
        update = self.updater.run(rollouts, targets, self.optimizers(), key)  # clipped steps, pretraining mix
        self.lr_schedulers().step()
        self.average.update()
        self.iterations_done += 1
        self.episodes_done += len(rollouts.responses) * self.ranks.count
        figures |= update.figures() | clock_figures(began, rollouts, self.ranks) | progress_figures(self)
        self.log_dict(figures)
        if not update.skipped_steps:  # NaN in the figures would be misread
            warn(*self.diagnostics.iteration(figures))
            if self.iterations_done > self.options.value.warmup_iterations:
                self.kl.adapt(figures["ppo/kl"])
            beyond = self.kl.beyond_bound(figures["ppo/kl"], self.iterations_done)
            self.trainer.should_stop |= beyond == "stop"
            if beyond == "shrink":
                self.lr_schedulers().base_lrs[0] /= 2
        self.fault = self.guard.fault
        self.resume.changed = []  # they have had their effect
        self.trainer.should_stop |= self.iterations_done >= self.iterations

    def end_as_measured(self, figures: dict[str, float]) -> None:
        """Ends the training with an iteration that takes no step; `figures` are those of its responses."""
        forget_last_step(self.trainer)
        self.log_dict(figures | {"ppo/iteration": float(self.iterations_done + 1)})
        self.fault = self.guard.fault
        self.only_measured = self.trainer.should_stop = True
        self.resume.changed = [name for name in self.resume.changed if name not in LENGTH]

    def ending(self) -> str | None:
        """Returns in a sentence whether the training reached the budget of the KL; None without one."""
        kl = self.metrics_so_far().get("ppo/kl")
        return self.kl.ending(kl, self.iterations_done, self.options.selection.metric) if kl is not None else None

    def on_validation_epoch_start(self) -> None:
        """Starts a validation, and the average unless a training has started it."""
        self.average.start(self.roles.parameters_of("policy"))
        self.validation.start(sorted({row.use_case for row in self.data.validation_rows if row.use_case}))

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Samples and scores held-out prompts with random numbers that are the same at every validation."""
        self.guard.begin(self.iterations_done + 1, f"after-{self.iterations_done}")
        self.validation.step(batch, self.average.applied())

    def on_validation_epoch_end(self) -> None:
        """Logs the means over all processes."""
        figures = self.validation.figures()
        self.log_dict(figures)
        if not self.trainer.sanity_checking:
            warn(*self.diagnostics.validation(figures))

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the counters that random numbers and schedules depend on."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["ppo"] = saved_state(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the counters."""
        super().on_load_checkpoint(checkpoint)
        restore_state(self, checkpoint["ppo"])

    def options_given(self) -> dict[str, Any]:
        """Returns every option of the run by dotted name; a stage that it starts from by its time of creation."""
        rewards = {f"reward.model.{i}" if i else "reward.model": s for i, s in enumerate(self.reward_sources)}
        return options_of(self.given, self.trainer, self.data, {"base": self.source, "reward.model": None} | rewards)

    def load_trained_weights(self, path: str) -> dict[str, float]:
        """Loads trained tensors and average of one of this run's checkpoints; returns the metrics saved with them."""
        metrics = super().load_trained_weights(path)
        if self.average.weights is not None:
            self.average.weights.load(self.load_from(path)["ppo"]["average"])
        return metrics

    def shard_networks(self, mesh: DeviceMesh) -> None:
        """Shards the networks of all roles."""
        self.roles.shard(mesh, self.frozen_dtype)

    def result(self) -> Any:
        """Returns the policy's network."""
        return self.roles.roles["policy"].network if hasattr(self, "roles") else self.network

    @property
    def adapter(self) -> str:  # type: ignore[override]
        """Name of the policy's adapter; that of a loaded policy is PEFT's own."""
        return "policy" if hasattr(self, "roles") else "default"

    def gather_weights(self) -> None:
        """Gathers sharded weights of the policy, or of its average, for `save`; every process has to call it."""
        with self.average.applied():
            super().gather_weights()

    def save_model(self, folder: Path) -> None:
        """Writes the policy, or its average over the training if there is one."""
        with self.average.applied():
            super().save_model(folder)

    def _open_reward(self, model: str) -> TextScorer:
        device = self.trainer.strategy.root_device
        return model_scorer(model, self.dtype_choice.known, self.quantize, device, self.mesh())
