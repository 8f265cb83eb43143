"""Builds the rewards and the other parts of an iteration of PPO from its options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lit_instruct.models.roles import Roles
from lit_instruct.ppo.collect import Collector, Reward
from lit_instruct.ppo.ensemble import Ensemble
from lit_instruct.ppo.length_penalty import NAME as PENALTY
from lit_instruct.ppo.length_penalty import LengthPenalty
from lit_instruct.ppo.minibatches import micro_batches
from lit_instruct.ppo.mismatch import Mismatch
from lit_instruct.ppo.non_finite import NonFinite
from lit_instruct.ppo.options import PPOOptions, RewardOptions
from lit_instruct.ppo.pretraining_mix import PretrainingMix
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.ppo.targets import Targets
from lit_instruct.ppo.update import Updater
from lit_instruct.ppo.validation import Validation
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.engine import NativeEngine, RolloutEngine
from lit_instruct.rollouts.function_names import Function, function_name
from lit_instruct.rollouts.reward_functions import TextScorer, function_scorer
from lit_instruct.rollouts.vllm.engine import vllm_engine

if TYPE_CHECKING:
    from data_modules.prompts import PromptDataModule


def rewards_of(options: RewardOptions, shared: bool, open_model: Callable[[str], TextScorer]) -> list[Reward]:
    """Returns the main reward, the further ones, an ensemble's standard deviation with weight 0, the length penalty.

    Args:
        options: where rewards come from.
        shared: whether the main reward is a role on the shared base.
        open_model: opens a reward model that reads text.

    Raises:
        UserError: a reward cannot be opened or imported.
    """

    def opened(name: str, weight: float, model: str | None, function: Function | None, option: str) -> Reward:
        # The check of all rewards finds NaN: it names the row and saves the episodes.
        if function is not None:
            score = function_scorer(function, False, f"{option}function")
            return Reward(name, weight, score, f"{option}function {function_name(function)}")
        assert model is not None
        return Reward(name, weight, open_model(model), f"{option}model {model}")

    main, std = Reward("main", 1.0, None), [Reward("std", 0.0, None)] if len(options.models) > 1 else []
    if not shared:
        main = opened("main", 1.0, options.model, options.function, "--model.reward.")
    named = "--model.reward.further"
    further = [opened(r.name, r.weight, r.model, r.function, f"{named}: {r.name!r}, ") for r in options.further]
    return [main, *further, *std, *([Reward(PENALTY, 1.0, None)] if options.length_penalty else [])]


class Parts(NamedTuple):
    """The parts of an iteration."""

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
    ensemble: Ensemble,
    data: PromptDataModule,
    ranks: Ranks,
    folder: Path,
    offloading: AbstractContextManager[Any],
    seed: int,
) -> Parts:
    """Builds the parts of an iteration.

    Args:
        options: of all parts.
        roles: the networks.
        prompter: the prompt format.
        rewards: the main one comes first.
        ensemble: what the scores of the reward roles become.
        data: batch size and pretraining text.
        ranks: the processes.
        folder: of the stage: episodes with NaN or inf are saved in it, and adapters for rollout servers.
        offloading: context of the training's forward passes.
        seed: of all random numbers.

    Raises:
        UserError: the labeler cannot be imported.
    """
    objective, memory = options.objective, options.memory
    temperature, norm = options.sampling.temperature, options.optimizer.max_grad_norm
    guard = NonFinite(options.optimizer.on_non_finite, folder / "non_finite", prompter.decode, ranks)
    judge = _judge(options.selection.labeler)
    collector = Collector(
        roles,
        prompter,
        options.sampling,
        rewards,
        ensemble,
        objective.minibatches,
        partial(micro_batches, size=memory.micro_batch_size, device=ranks.device.type),
        guard,
        ranks,
        _engine(options, roles, prompter, data, ranks, folder / "rollouts"),
        Mismatch(options.rollouts.mismatch_bound, options.sampling.top_p),
        length_penalty=_length_penalty(options),
        responses_per_prompt=objective.responses_per_prompt,
    )
    mix = _mix(options, roles, data, ranks, offloading)
    return Parts(
        guard,
        collector,
        Targets(options.reward, objective, options.kl.estimator, ranks, options.value.gae_lambda),
        Updater(
            *(roles, objective, options.value, temperature, norm, mix, guard, ranks, offloading),
            importance_cap=options.rollouts.importance_cap,
        ),
        Validation(collector, judge, seed, ranks),
    )


def _engine(
    options: PPOOptions, roles: Roles, prompter: Prompter, data: PromptDataModule, ranks: Ranks, folder: Path
) -> RolloutEngine:
    sampling, memory = options.sampling, options.memory
    size = memory.generation_batch_size
    if options.rollouts.engine == "native":
        stop = sampling.stop_rule(prompter)
        return NativeEngine(roles, sampling, stop, prompter.pad_id, ranks.device, size, memory.merge_for_rollouts)
    needs = data.longest + sampling.max_new_tokens
    return vllm_engine(options.rollouts, roles, sampling, prompter, needs, size, folder, ranks.rank == 0, ranks.agree)


def _mix(
    options: PPOOptions, roles: Roles, data: PromptDataModule, ranks: Ranks, offloading: AbstractContextManager[Any]
) -> PretrainingMix | None:
    pretraining, objective = options.pretraining, options.objective
    if not pretraining.ptx_coef or data.pretraining is None:
        return None
    responses = data.batch_size * objective.responses_per_prompt
    blocks = max(1, round(pretraining.ptx_batch_ratio * (responses / objective.minibatches)))
    size = options.memory.micro_batch_size
    return PretrainingMix(roles, data.pretraining, pretraining.ptx_coef, blocks, size, ranks, offloading)


def _length_penalty(options: PPOOptions) -> LengthPenalty | None:
    reward, limit = options.reward, options.sampling.max_new_tokens
    return LengthPenalty(reward.length_penalty, reward.length_penalty_from, limit) if reward.length_penalty else None


def _judge(labeler: Function | None) -> TextScorer | None:
    return function_scorer(labeler, option="--model.selection.labeler") if labeler is not None else None
