"""Options of PPO, with their checks."""

from __future__ import annotations

from dataclasses import dataclass

from lit_instruct.errors import UserError
from lit_instruct.losses.divergence import Estimator


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
        micro_batch_size: sequences in one forward and backward.
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


@dataclass
class PPOOptimizerOptions:
    """AdamW at a constant rate, after the paper's warmup (C.4).

    Args:
        learning_rate: of the policy.
        value_learning_rate: of the value function.
        warmup_iterations: the rate rises over so many iterations from a tenth.
        max_grad_norm: gradients of policy and of value are each cut to this norm.
        weight_decay: of AdamW.
        beta2: of AdamW; beta1 is 0.9.
    """

    learning_rate: float = 1e-4
    value_learning_rate: float = 1e-4
    warmup_iterations: int = 10
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    beta2: float = 0.95

    def share(self, iteration: int) -> float:
        """Returns the learning rate at an iteration as a share of the full one."""
        if iteration >= self.warmup_iterations:
            return 1.0
        return 0.1 + 0.9 * iteration / self.warmup_iterations


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
