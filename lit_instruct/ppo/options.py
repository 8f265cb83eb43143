"""Options of PPO by topic, with their checks; those of the losses are in objective.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from lit_instruct.errors import UserError
from lit_instruct.losses.aggregate import Aggregate
from lit_instruct.models.activations import MemoryOptions
from lit_instruct.models.finite import OnNonFinite
from lit_instruct.models.loading import model_name
from lit_instruct.models.optimizers import OptimizerName
from lit_instruct.ppo.bounds import above_zero, at_least
from lit_instruct.ppo.length_penalty import NAME as PENALTY
from lit_instruct.ppo.objective import KLOptions, ObjectiveOptions, ValueOptions
from lit_instruct.rollouts.engine_options import RolloutOptions
from lit_instruct.rollouts.function_names import Function, check_function
from lit_instruct.rollouts.generate import SamplingOptions


@dataclass
class FurtherReward:
    """A further reward, added to the main one and logged as ppo/reward/<name>.

    Args:
        name: its name in the logs.
        model: a stage folder, Hugging Face folder or hub id of a sequence classifier with one output; it reads text, so
            its tokenizer and base may be any.
        function: import path of a Python function, in one of the forms of docs/rewards.md, or what else
            docs/labelers.md names.
        weight: its factor in the sum of all rewards.
    """

    name: str
    model: str | None = None
    function: Function | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_function(self.function, f"--model.reward.further: {self.name!r}, function")
        if (self.model is None) == (self.function is None):
            raise UserError(f"--model.reward.further: {self.name!r} needs either a model or a function")
        self.model = self.model and model_name(self.model, f"--model.reward.further: {self.name!r}, model")


@dataclass
class RewardOptions:
    """Where scores come from, and what happens to them before the KL penalty is subtracted.

    Scores are normalised, then scaled, then clipped. Then the missing-EOS score or penalty is applied to responses that
    the length limit cut.

    Args:
        model: reward model: a stage folder or a hub sequence classifier; null with `function`. Several stage folders
            with commas are an ensemble of adapters on the policy's base, which costs little more memory than one.
        function: import path of a Python function to use instead, in one of the forms of docs/rewards.md, the label
            of a classifier, such as classifier:lvwerra/distilbert-imdb#POSITIVE, judge:FILE.yaml, or the http address
            of a server (docs/labelers.md).
        further: rewards that are added to the main one.
        normalize: subtracts the mean of all scores so far and divides by their standard deviation.
        scale: multiplies every score.
        clip: limits scores to [-clip, clip]; null does not clip.
        whiten: divides the rewards of all tokens by their standard deviation in the batch.
        missing_eos_penalty: subtracted from the score of a response that the length limit cut.
        missing_eos_score: replaces the score of a response that the length limit cut, because the reward model has
            learnt from complete responses only; null keeps the score (less `missing_eos_penalty`).
        ensemble: how the scores of an ensemble become one: mean, min, or mean_minus_std, where members that disagree
            lower the score (Coste et al. 2023). Their standard deviation is logged as ppo/reward/std.
        std_coef: factor of that standard deviation in mean_minus_std.
        length_penalty: a further reward: what a response at the length limit loses; shorter ones lose less by a line
            (Yu et al. 2025). It is logged as ppo/reward/length_penalty; 0 for none.
        length_penalty_from: tokens, with the EOS, up to which a response loses nothing.
    """

    model: str | None = "{run}/rm"
    function: Function | None = None
    further: list[FurtherReward] = field(default_factory=list)
    normalize: bool = False
    scale: float = 1.0
    clip: float | None = None
    whiten: bool = False
    missing_eos_penalty: float = 1.0
    missing_eos_score: float | None = None
    ensemble: Aggregate = "mean"
    std_coef: float = 1.0
    length_penalty: float = 0.0
    length_penalty_from: int = 0

    def __post_init__(self) -> None:
        check_function(self.function, "--model.reward.function")
        if self.function is None and self.model is None:
            raise UserError("--model.reward.model: give a reward model, or a function by --model.reward.function")
        self.model = self.model and model_name(self.model, "--model.reward.model")
        above_zero("reward", self, "clip")
        at_least(0, "reward", self, "length_penalty", "length_penalty_from")
        if self.length_penalty_from and not self.length_penalty:
            raise UserError(
                f"--model.reward.length_penalty_from={self.length_penalty_from}: there is no penalty with "
                "--model.reward.length_penalty=0; give one, or leave this out"
            )
        if self.ensemble != "mean" and len(self.models) < 2:
            raise UserError(
                f"--model.reward.ensemble={self.ensemble}: needs several reward models, with commas in "
                "--model.reward.model"
            )
        if len(set(self.names)) < len(self.names):
            raise UserError(f"--model.reward.further: two rewards have one name ({', '.join(self.names)}); rename one")

    @property
    def names(self) -> list[str]:
        """Names of all rewards, the main one first."""
        std, penalty = ["std"] if len(self.models) > 1 else [], [PENALTY] if self.length_penalty else []
        return ["main", *(reward.name for reward in self.further), *std, *penalty]

    @property
    def models(self) -> list[str]:
        """Names of the reward models of the ensemble; empty with a function."""
        return self.model.split(",") if self.model is not None and self.function is None else []


@dataclass
class PPOOptimizerOptions:
    """AdamW at a constant rate, after the paper's warmup (C.4).

    Args:
        name: adamw, adamw_8bit (its states take a quarter of the memory), paged_adamw_8bit (which CUDA moves to the
            host when memory is short) or lion_8bit (an eighth; needs a third to a tenth of AdamW's learning rate).
        learning_rate: learning rate of the policy.
        warmup_iterations: iterations over which the rate rises from a tenth.
        max_grad_norm: the gradients of policy and of value are each clipped to this norm.
        weight_decay: decoupled weight decay.
        beta2: decay of the second moment; beta1 is 0.9.
        ema_decay: keeps an exponential moving average of the policy's weights over iterations, which is then validated
            and handed over (C.4: 0.992); null keeps none.
        on_non_finite: what happens at NaN or inf in a reward, loss or gradient: "stop" ends the training, "skip" skips
            that step. Either way the episodes are saved in non_finite/ of the stage's folder.
    """

    name: OptimizerName = "adamw"
    learning_rate: float = 1e-4
    warmup_iterations: int = 10
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    beta2: float = 0.95
    ema_decay: float | None = None
    on_non_finite: OnNonFinite = "stop"

    def __post_init__(self) -> None:
        above_zero("optimizer", self, "learning_rate", "max_grad_norm")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise UserError(f"--model.optimizer.ema_decay={self.ema_decay}: must be at least 0 and below 1, or null")

    def share(self, iteration: int) -> float:
        """Returns the learning rate at an iteration as a share of the full one."""
        return 1.0 if iteration >= self.warmup_iterations else 0.1 + 0.9 * iteration / self.warmup_iterations


@dataclass
class PretrainingOptions:
    """The pretraining mix of PPO-ptx.

    Args:
        ptx_coef: gamma, the coefficient of the mean next-token loss per pretraining token; 0 is plain PPO. The paper's
            27.8 has to be swept again for another model or batch size.
        ptx_batch_ratio: pretraining sequences per episode (8 in the paper).
    """

    ptx_coef: float = 0.0
    ptx_batch_ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.ptx_coef < 0:
            raise UserError(f"--model.pretraining.ptx_coef={self.ptx_coef}: must be at least 0 (0 is plain PPO)")
        if self.ptx_batch_ratio <= 0:
            raise UserError(
                f"--model.pretraining.ptx_batch_ratio={self.ptx_batch_ratio}: must be above 0; plain PPO is "
                "--model.pretraining.ptx_coef=0"
            )


@dataclass
class SelectionOptions:
    """Which policy is handed over, and when the training may end early.

    Args:
        metric: validation metric, such as val/reward, val/labeler or val/reward/<use case>: the policy with its best
            value is handed over; null hands over the last policy.
        mode: whether the highest ("max") or lowest ("min") value is the best.
        patience: the training ends after this many validations in a row without improvement; null never ends early.
        labeler: import path of a Python function that judges the validation samples beside the reward, as
            `reward.function` takes it; logged as val/labeler.
    """

    metric: str | None = None
    mode: Literal["max", "min"] = "max"
    patience: int | None = None
    labeler: Function | None = None

    def __post_init__(self) -> None:
        check_function(self.labeler, "--model.selection.labeler")
        at_least(1, "selection", self, "patience")
        if self.patience is not None and self.metric is None:
            raise UserError(
                f"--model.selection.patience={self.patience}: it needs --model.selection.metric, which is null; name "
                "the metric that has to improve, such as val/reward"
            )


@dataclass
class PPOMemoryOptions(MemoryOptions):
    """What is kept in device memory at one time; it does not change what is learnt.

    Args:
        micro_batch_size: sequences of average length in one forward and backward pass; a pass takes fewer long ones,
            more short ones, and on a CPU no more than make it faster.
        generation_batch_size: prompts decoded side by side; by each server of the engine vllm.
        merge_for_rollouts: folds the policy's adapter into the weights during a rollout; false decodes through the
            adapter, which is slower and saves a second copy of the adapted weights. Bases in 8 or 4 bits are never
            merged, and without LoRA there is nothing to merge.
    """

    micro_batch_size: int = 8
    generation_batch_size: int = 32
    merge_for_rollouts: bool = True

    def __post_init__(self) -> None:
        at_least(1, "memory", self, "micro_batch_size", "generation_batch_size")


class PPOOptions(NamedTuple):
    """All options of an iteration, by topic."""

    objective: ObjectiveOptions = ObjectiveOptions()
    kl: KLOptions = KLOptions()
    reward: RewardOptions = RewardOptions()
    value: ValueOptions = ValueOptions()
    optimizer: PPOOptimizerOptions = PPOOptimizerOptions()
    sampling: SamplingOptions = SamplingOptions()
    pretraining: PretrainingOptions = PretrainingOptions()
    selection: SelectionOptions = SelectionOptions()
    memory: PPOMemoryOptions = PPOMemoryOptions()
    rollouts: RolloutOptions = RolloutOptions()
