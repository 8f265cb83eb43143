"""Options of what PPO optimises: the clipped objective, the KL penalty and the value loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_instruct.errors import UserError
from lit_instruct.losses.divergence import Estimator
from lit_instruct.models.assemble import ValueKind
from lit_instruct.ppo.bounds import above_zero, at_least


@dataclass
class ObjectiveOptions:
    """The clipped objective, and how often a batch of rollouts is used.

    Args:
        clip_range: the ratio's allowed distance from 1 (C.4: 0.2).
        discount: discount factor of later rewards (C.4: none).
        gae_lambda: lambda of generalized advantage estimation.
        whiten_advantages: shifts and scales the advantages of all tokens of the batch to mean 0 and variance 1.
        entropy_coef: coefficient of a bonus for the mean entropy, in nats, of the policy's token distributions.
        inner_epochs: passes over a batch of rollouts (C.4: 1).
        minibatches: optimizer steps in one pass.
        dual_clip: a bad token counts no more than at this ratio, usually 3 (Ye et al. 2020); null does not limit it.
        responses_per_prompt: responses that are sampled to each prompt; from 2 on, a response's score counts from the
            mean of the others of its prompt (RLOO, Ahmadian et al. 2024), after normalising and the missing EOS.
    """

    clip_range: float = 0.2
    discount: float = 1.0
    gae_lambda: float = 0.95
    whiten_advantages: bool = True
    entropy_coef: float = 0.0
    inner_epochs: int = 1
    minibatches: int = 8
    dual_clip: float | None = None
    responses_per_prompt: int = 1

    def __post_init__(self) -> None:
        at_least(1, "objective", self, "inner_epochs", "minibatches", "responses_per_prompt")
        above_zero("objective", self, "clip_range")
        least = 1 + self.clip_range
        if self.dual_clip is not None and self.dual_clip <= least:
            raise UserError(
                f"--model.objective.dual_clip={self.dual_clip}: must be above 1 + clip_range = {least:g}, usually 3"
            )


@dataclass
class KLOptions:
    """The KL penalty of eq. 2 and its control.

    Args:
        coef: beta, the coefficient of the KL penalty per nat (C.4: 0.02).
        estimator: k1 as in the paper, k2 or k3.
        target: KL to the SFT model in nats per response that the coefficient is adapted to, starting from `coef`;
            null keeps the coefficient fixed.
        gain: how fast it adapts (0.1 unless given), below 5: one iteration changes it by at most the fraction gain / 5.
        bound: KL in nats per response that an iteration may not exceed; null for none.
        on_bound: what exceeding it does: "shrink" halves the policy's learning rate, "stop" ends the training.
        budget: KL in nats per response at which the training ends: the first iteration whose responses reach it takes
            no step, and hands over the policy that it measured; null for none.
        min_coef: what an adapted coefficient does not fall below. In the first iterations the KL is far below its
            target, and a high gain would use the penalty up before the KL is there.
    """

    coef: float = 0.02
    estimator: Estimator = "k1"
    target: float | None = None
    gain: float | None = None
    bound: float | None = None
    on_bound: Literal["shrink", "stop"] = "stop"
    budget: float | None = None
    min_coef: float = 0.0

    def __post_init__(self) -> None:
        at_least(0, "kl", self, "coef", "min_coef")
        above_zero("kl", self, "target", "gain", "bound", "budget")
        if self.gain is not None and self.gain >= 5:
            raise UserError(
                f"--model.kl.gain={self.gain}: one iteration changes the coefficient by up to gain / 5, so from 5 on "
                "it would become 0 or negative; give one below 5, such as 1"
            )
        if self.min_coef and self.target is None:
            raise UserError(
                f"--model.kl.min_coef={self.min_coef}: the coefficient is fixed with --model.kl.target=null; give a "
                "target, or leave this out"
            )
        if self.min_coef > self.coef:
            raise UserError(f"--model.kl.min_coef={self.min_coef}: must not be above --model.kl.coef={self.coef}")
        if self.gain is not None and self.target is None:
            raise UserError(
                f"--model.kl.gain={self.gain}: the coefficient is fixed with --model.kl.target=null; give a target, or "
                "leave the gain out"
            )
        if self.target is not None and self.coef == 0:
            raise UserError(
                f"--model.kl.target={self.target}: it multiplies --model.kl.coef, which is 0 and would stay 0; start "
                "with a coefficient above 0"
            )
        if self.target is not None and self.bound is not None and self.bound <= self.target:
            raise UserError(f"--model.kl.bound={self.bound}: must be above --model.kl.target={self.target}")
        if self.budget is not None and self.bound is not None and self.on_bound == "stop" and self.bound <= self.budget:
            raise UserError(
                f"--model.kl.bound={self.bound}: it ends the training before --model.kl.budget={self.budget} is "
                "reached; raise it, or give --model.kl.bound=null"
            )


@dataclass
class ValueOptions:
    """The value function and its loss.

    Args:
        start: the initial value function: "reward_model", a copy of the reward model as in the paper; "zero_head", the
            same with a head of zeros, for short trainings (a reward model's score of half a response means little);
            "policy_trunk", a head on the policy's own hidden states, which is the cheapest.
        clip_range: allowed distance of a value from its estimate at the time of the rollout; null does not clip.
        coef: coefficient of the value loss; it matters if policy and value share a network (start=policy_trunk).
        learning_rate: learning rate of the value function.
        gae_lambda: lambda of the returns that the value function learns, when it differs from that of the advantages;
            1 learns the sums of rewards themselves (Yuan et al. 2025, arXiv 2503.01491, section 3.2); null is
            `objective.gae_lambda`.
        warmup_iterations: first iterations, in which only the value function learns and the policy stays as it is.
    """

    start: ValueKind = "reward_model"
    clip_range: float | None = 0.2
    coef: float = 1.0
    learning_rate: float = 1e-4
    gae_lambda: float | None = None
    warmup_iterations: int = 0

    def __post_init__(self) -> None:
        above_zero("value", self, "coef", "learning_rate")
        at_least(0, "value", self, "gae_lambda", "warmup_iterations")
