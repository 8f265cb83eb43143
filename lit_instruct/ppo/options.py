"""Options of PPO, with their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_instruct.errors import UserError
from lit_instruct.losses.divergence import Estimator
from lit_instruct.models.optimizers import OptimizerName


@dataclass
class PPOOptions:
    """The objective (eq. 2) and how often a batch of rollouts is used.

    Args:
        clip_range: the ratio's allowed distance from 1 (C.4: 0.2).
        value_clip_range: the same for values; null does not clip.
        kl_coef: beta, the price of a nat of divergence from the SFT model (C.4: 0.02).
        kl_estimator: k1 as in the paper, k2 or k3.
        discount: of later rewards (C.4: none).
        gae_lambda: of advantage estimation.
        inner_epochs: passes over a batch of rollouts (C.4: 1).
        minibatches: optimizer steps in one pass.
        micro_batch_size: sequences of average length in one forward and backward; of longer ones it takes fewer, of
            shorter ones more, and a CPU never more than make it faster.
        missing_eos_penalty: taken off the score of a response that the length limit cut.
    """

    clip_range: float = 0.2
    value_clip_range: float | None = 0.2
    kl_coef: float = 0.02
    kl_estimator: Estimator = "k1"
    discount: float = 1.0
    gae_lambda: float = 0.95
    inner_epochs: int = 1
    minibatches: int = 8
    micro_batch_size: int = 8
    missing_eos_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Refuses values that cannot train."""
        for name in ("inner_epochs", "minibatches", "micro_batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--model.ppo.{name}={getattr(self, name)}: must be at least 1")
        if self.clip_range <= 0:
            raise UserError(f"--model.ppo.clip_range={self.clip_range}: must be above 0")
        if self.kl_coef < 0:
            raise UserError(f"--model.ppo.kl_coef={self.kl_coef}: must be at least 0")


@dataclass
class ShapingOptions:
    """What happens to scores before they become advantages, and what else is in the loss.

    A score is normalised, then scaled, then clipped; then a response that the length limit cut gets its fixed score or
    pays its penalty; KL is charged after that.

    Args:
        missing_eos_score: score of a response that the length limit cut, instead of the reward model's, which has only
            learnt from responses that end; null keeps that (less --model.ppo.missing_eos_penalty).
        normalize_rewards: divides scores, less their mean, by their standard deviation, both over all episodes so far.
        reward_scale: factor of every score.
        reward_clip: cuts scores to [-reward_clip, reward_clip]; null cuts none.
        whiten_rewards: divides the rewards of all tokens by their standard deviation in the batch.
        whiten_advantages: shifts and scales the advantages of all tokens of the batch to mean 0 and variance 1.
        entropy_coef: weight of a bonus for the mean entropy, in nats, of the policy's token distributions.
        value_coef: weight of the value loss; it matters where both share a trunk (--model.value=policy_trunk).
    """

    missing_eos_score: float | None = None
    normalize_rewards: bool = False
    reward_scale: float = 1.0
    reward_clip: float | None = None
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    entropy_coef: float = 0.0
    value_coef: float = 1.0

    def __post_init__(self) -> None:
        """Refuses values that cannot train."""
        if self.reward_clip is not None and self.reward_clip <= 0:
            raise UserError(f"--model.shaping.reward_clip={self.reward_clip}: must be above 0, or null")
        if self.value_coef <= 0:
            raise UserError(f"--model.shaping.value_coef={self.value_coef}: must be above 0")


@dataclass
class RewardOptions:
    """A further reward, added to the main one and logged as ppo/reward/<name>.

    Args:
        name: for the log.
        model: a stage folder, Hugging Face folder or hub id of a sequence classifier with one output; it reads text, so
            its tokenizer and base may be any.
        function: import path of a Python function list[(prompt, response)] -> list[float].
        weight: with which it is added.
    """

    name: str
    model: str | None = None
    function: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuses a reward that nobody or two give."""
        if (self.model is None) == (self.function is None):
            raise UserError(f"--model.further_rewards: {self.name!r} needs either a model or a function")


@dataclass
class KLControlOptions:
    """What holds the divergence from the SFT model beside its fixed price `--model.ppo.kl_coef`.

    Args:
        target: divergence in nats a response that the price is adapted to, starting from kl_coef; null keeps it fixed.
        gain: how fast it adapts (0.1 unless given): the share by which the price changes at the largest error counted,
            20 %, is gain / 5.
        bound: divergence in nats a response that an iteration may not pass; null sets none.
        on_bound: what passing it does: "shrink" halves the policy's learning rate, "stop" ends the training.
    """

    target: float | None = None
    gain: float | None = None
    bound: float | None = None
    on_bound: Literal["shrink", "stop"] = "stop"

    def __post_init__(self) -> None:
        """Refuses values that cannot hold anything."""
        for name in ("target", "gain", "bound"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--model.kl_control.{name}={value}: must be above 0")
        if self.gain is not None and self.target is None:
            raise UserError(
                f"--model.kl_control.gain={self.gain}: the price of KL is fixed with --model.kl_control.target=null; "
                "give a target, or leave the gain out"
            )
        if self.target is not None and self.bound is not None and self.bound <= self.target:
            raise UserError(
                f"--model.kl_control.bound={self.bound}: must be above --model.kl_control.target={self.target}"
            )


@dataclass
class PPOOptimizerOptions:
    """AdamW at a constant rate, after the paper's warmup (C.4).

    Args:
        name: adamw, adamw_8bit (its states in a quarter of the memory), paged_adamw_8bit (which CUDA moves to the host
            where memory is short) or lion_8bit (an eighth; wants a third to a tenth of AdamW's learning rate).
        learning_rate: of the policy.
        value_learning_rate: of the value function.
        warmup_iterations: the rate rises over so many iterations from a tenth.
        max_grad_norm: gradients of policy and of value are each cut to this norm.
        weight_decay: share of a weight that a step at learning rate 1 takes away.
        beta2: of the second moment; beta1 is 0.9.
        ema_decay: keeps an exponential average of the policy's weights over iterations, which is then what is
            validated and handed over (C.4: 0.992); null keeps none.
        on_non_finite: what a NaN or infinity in reward, loss or gradient does: "stop" ends the training, "skip" leaves
            that step out. The episodes are saved into the stage's folder non_finite/ either way.
    """

    name: OptimizerName = "adamw"
    learning_rate: float = 1e-4
    value_learning_rate: float = 1e-4
    warmup_iterations: int = 10
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    beta2: float = 0.95
    ema_decay: float | None = None
    on_non_finite: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        """Refuses values that cannot train."""
        for name in ("learning_rate", "value_learning_rate", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise UserError(f"--model.optimizer.{name}={getattr(self, name)}: must be above 0")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise UserError(f"--model.optimizer.ema_decay={self.ema_decay}: must be at least 0 and below 1, or null")

    def share(self, iteration: int) -> float:
        """Returns the learning rate at an iteration as a share of the full one."""
        if iteration >= self.warmup_iterations:
            return 1.0
        return 0.1 + 0.9 * iteration / self.warmup_iterations


@dataclass
class SelectionOptions:
    """Which policy of the training is handed over, and when no better one is waited for.

    Args:
        metric: of validation, such as val/reward, val/labeler or val/reward/<use case>: the policy with the best one is
            handed over; null hands over the last.
        mode: whether its highest ("max") or lowest ("min") value is the best.
        patience: the training ends after so many validations in a row without a better one; null goes on.
    """

    metric: str | None = None
    mode: Literal["max", "min"] = "max"
    patience: int | None = None

    def __post_init__(self) -> None:
        """Refuses values that choose nothing."""
        if self.patience is None:
            return
        if self.patience < 1:
            raise UserError(f"--model.selection.patience={self.patience}: must be at least 1, or null")
        if self.metric is None:
            raise UserError(
                f"--model.selection.patience={self.patience}: it needs --model.selection.metric, which is null; name "
                "the metric that has to improve, such as val/reward"
            )


@dataclass
class PretrainingOptions:
    """The pretraining mix of PPO-ptx.

    Args:
        ptx_coef: gamma, the weight of the mean next-token loss per pretraining token; 0 is plain PPO. The paper's
            27.8 must be swept anew for another model and batch.
        ptx_batch_ratio: pretraining sequences per episode (the paper's 8).
    """

    ptx_coef: float = 0.0
    ptx_batch_ratio: float = 1.0

    def __post_init__(self) -> None:
        """Refuses values that mix nothing in."""
        if self.ptx_coef < 0:
            raise UserError(f"--model.pretraining.ptx_coef={self.ptx_coef}: must be at least 0 (0 is plain PPO)")
        if self.ptx_batch_ratio <= 0:
            raise UserError(
                f"--model.pretraining.ptx_batch_ratio={self.ptx_batch_ratio}: must be above 0; plain PPO is "
                "--model.pretraining.ptx_coef=0"
            )
