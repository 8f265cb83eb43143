"""The parts of an iteration of PPO, built around the roles."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lit_instruct.models.roles import Roles
from lit_instruct.ppo.collect import Collector, Reward
from lit_instruct.ppo.minibatches import micro_batches
from lit_instruct.ppo.non_finite import NonFinite
from lit_instruct.ppo.pretraining_mix import PretrainingMix
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.ppo.targets import Targets
from lit_instruct.ppo.topics import PPOOptions
from lit_instruct.ppo.update import Updater
from lit_instruct.ppo.validation import Validation
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.reward_functions import function_scorer

if TYPE_CHECKING:
    from data_modules.prompts import PromptDataModule


class Parts(NamedTuple):
    """What an iteration is made of."""

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
    data: PromptDataModule,
    ranks: Ranks,
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
        data: its batch size and pretraining text.
        ranks: the processes.
        folder: where episodes with NaN or inf are saved.
        offloading: context of forward passes of the training.
        seed: of all random numbers.

    Raises:
        UserError: the labeler cannot be imported.
    """
    objective, memory = options.objective, options.memory
    guard = NonFinite(options.optimizer.on_non_finite, folder, prompter.decode, ranks)
    labeler = options.selection.labeler
    judge = function_scorer(labeler, option="--model.selection.labeler") if labeler is not None else None
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
        guard,
        collector,
        Targets(options.reward, objective, options.kl.estimator, ranks),
        Updater(roles, objective, options.value, temperature, max_grad_norm, mix, guard, ranks, offloading),
        Validation(collector, judge, seed, ranks),
    )
