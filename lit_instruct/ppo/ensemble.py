"""Several reward models as one reward: what they agree on is harder to exploit than any one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lit_instruct.checkout import stage_command
from lit_instruct.errors import UserError
from lit_instruct.handover import Stage, bits_of, check_same_format, read_stage_of
from lit_instruct.losses.aggregate import Aggregate, aggregate
from lit_instruct.models.assemble import shares_base
from lit_instruct.models.loading import Source
from lit_instruct.models.quantised import Quantize
from lit_instruct.ppo.diagnostics import UNCALIBRATED, warn
from lit_instruct.ppo.options import RewardOptions
from lit_instruct.prompting import Prompter


@dataclass(frozen=True)
class Ensemble:
    """How the scores of the reward roles become the main reward; one member is a plain reward model."""

    biases: Sequence[float]
    """Added to the scores of each member."""
    how: Aggregate = "mean"
    std_coef: float = 1.0

    def combine(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Returns the main reward, then with several members their standard deviation: (B,) each.

        Args:
            scores: (B,) of each member, without its bias.
        """
        members = torch.stack([score + bias for score, bias in zip(scores, self.biases, strict=True)], dim=1)
        return list(aggregate(members, self.how, self.std_coef))[: 1 if len(scores) == 1 else 2]


def check_ensemble(policy: Source, rewards: Sequence[Source], with_lora: bool) -> None:
    """Refuses an ensemble whose members cannot all be adapters on the policy's base.

    Args:
        policy: the SFT model.
        rewards: the members; one alone passes.
        with_lora: whether the policy trains an adapter.

    Raises:
        UserError: names the member.
    """
    if len(rewards) < 2:
        return
    option = f"--model.reward.model: an ensemble of {len(rewards)}"
    if not with_lora:
        raise UserError(
            f"{option}: its members share the policy's base, which --model.lora=null changes; train with LoRA"
        )
    for reward in rewards:
        if not shares_base(policy, reward):
            kind = f"is on {reward.base}" if reward.adapter is not None else "is a whole model"
            raise UserError(
                f"{option}: its members are adapters on the policy's base {policy.base}, but {reward.name} {kind}; "
                "train it on that base, or add it with --model.reward.further"
            )


def ensemble_of(
    options: RewardOptions, rewards: Sequence[Source], shared: bool, prompter: Prompter, quantize: Quantize, warns: bool
) -> Ensemble:
    """Returns how the scores of a run's reward models become one.

    Args:
        options: of the reward.
        rewards: the reward models; empty for a function.
        shared: whether they are adapters on the policy's base.
        prompter: the policy's prompt format.
        quantize: how the base is quantised.
        warns: whether to warn of scores that no stage has centred.

    Raises:
        UserError: a member was trained with another prompt format.
    """
    parents = parents_of(rewards, prompter, quantize) if shared else [*map(read_stage_of, rewards)]
    if warns and not options.normalize and any(parent and not parent.reward_bias for parent in parents):
        warn(UNCALIBRATED)
    biases = [(parent.reward_bias if parent is not None else None) or 0.0 for parent in parents] or [0.0]
    return Ensemble(biases, options.ensemble, options.std_coef)


def parents_of(rewards: Sequence[Source], prompter: Prompter, quantize: Quantize) -> list[Stage | None]:
    """Returns the records of reward models on the policy's base; None for one that no stage made.

    Args:
        rewards: the members.
        prompter: the policy's prompt format.
        quantize: how the base is quantised.

    Raises:
        UserError: a member was trained with another prompt format.
    """
    parents = [read_stage_of(reward) for reward in rewards]
    for reward, parent in zip(rewards, parents, strict=True):
        check_same_format(prompter, parent, reward.name, stage_command("rm", Path(reward.name).parent))
        bits_of(reward, quantize)
    return parents
