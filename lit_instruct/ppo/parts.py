"""The parts of an iteration of PPO, built around the roles."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning.pytorch.strategies import Strategy

from lit_instruct.models.roles import Roles
from lit_instruct.ppo.collect import Collector, Reward
from lit_instruct.ppo.minibatches import micro_batches
from lit_instruct.ppo.non_finite import NonFinite
from lit_instruct.ppo.options import (
    KLOptions,
    ObjectiveOptions,
    PPOMemoryOptions,
    PPOOptimizerOptions,
    PretrainingOptions,
    RewardOptions,
    SelectionOptions,
    ValueOptions,
)
from lit_instruct.ppo.pretraining_mix import PretrainingMix
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.ppo.targets import Targets
from lit_instruct.ppo.update import Updater
from lit_instruct.ppo.validation import Validation
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.reward_functions import TextScorer

if TYPE_CHECKING:
    from data_modules.prompts import PromptDataModule


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


class Parts(NamedTuple):
    """What an iteration is made of."""

    ranks: Ranks
    guard: NonFinite
    collector: Collector
    targets: Targets
    updater: Updater
    validation: Validation


def build_parts(
    options: PPOOptions,
    roles: Roles,
    prompter: Prompter,
    rewards: Sequence[Reward],
    reward_bias: float,
    labeler: TextScorer | None,
    data: PromptDataModule,
    strategy: Strategy | None,
    folder: Path,
    offloading: AbstractContextManager[Any],
    seed: int,
) -> Parts:
    """Builds the parts of an iteration.

    Args:
        options: of all of them.
        roles: the networks.
        prompter: the prompt format.
        rewards: the main one first.
        reward_bias: added to every score of the reward role.
        labeler: judges validation samples; None for none.
        data: its batch size and pretraining text.
        strategy: of the Trainer; None for a single process.
        folder: where the stage writes.
        offloading: context of forward passes of the training.
        seed: of all random numbers.
    """
    objective, memory = options.objective, options.memory
    ranks = Ranks(roles, strategy)
    guard = NonFinite(options.optimizer.on_non_finite, folder / "non_finite", prompter.decode, ranks)
    collector = Collector(
        roles,
        prompter,
        options.sampling,
        rewards,
        reward_bias,
        objective.minibatches,
        partial(micro_batches, size=memory.micro_batch_size, device=ranks.device.type),
        guard,
        ranks,
        memory.generation_batch_size,
        memory.merge_for_rollouts,
    )
    mix = None
    if options.pretraining.ptx_coef and data.pretraining is not None:
        episodes = data.batch_size / objective.minibatches
        mix = PretrainingMix(
            roles, data.pretraining, options.pretraining, episodes, memory.micro_batch_size, ranks, offloading
        )
    temperature, max_grad_norm = options.sampling.temperature, options.optimizer.max_grad_norm
    return Parts(
        ranks,
        guard,
        collector,
        Targets(options.reward, objective, options.kl.estimator, ranks),
        Updater(roles, objective, options.value, temperature, max_grad_norm, mix, guard, ranks, offloading),
        Validation(collector, labeler, seed, ranks),
    )
