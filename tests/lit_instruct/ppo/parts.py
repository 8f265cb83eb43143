"""Parts of an iteration of PPO on tiny networks, without a Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data_modules.rows import PromptRow
from lit_instruct.batches import PromptBatch, left_pad
from lit_instruct.models.roles import Roles
from lit_instruct.ppo.collect import Collector, Reward
from lit_instruct.ppo.ensemble import Ensemble
from lit_instruct.ppo.non_finite import NonFinite
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.engine import NativeEngine, RolloutEngine
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.reward_functions import TextScorer
from tests.lit_instruct.rollouts.stage_folders import REWARD_BIAS

TEXTS = ["Hello", "What is the capital of France?", "Write a poem about the sea and the wind.", "Numbers"]
SAMPLING = SamplingOptions(max_new_tokens=6)


def batch_of(prompter: Prompter, rows: Sequence[int] = range(4)) -> PromptBatch:
    """Prompts of TEXTS as a batch."""
    ids, mask = left_pad([prompter.prompt_ids(TEXTS[row]) for row in rows], prompter.pad_id)
    return PromptBatch(ids, mask, torch.tensor(list(rows)) + 10, [PromptRow(TEXTS[row]) for row in rows])


def collector_of(
    roles: Roles,
    prompter: Prompter,
    scorer: TextScorer | None = None,
    *,
    sampling: SamplingOptions = SAMPLING,
    further: Sequence[Reward] = (),
    ensemble: Ensemble = Ensemble([REWARD_BIAS]),
    with_std: bool = False,
    generation_batch_size: int = 32,
    merge: bool = True,
    engine: RolloutEngine | None = None,
    **options: Any,
) -> Collector:
    """A collector of two minibatches, with micro-batches of two rows."""
    ranks = Ranks(roles)
    guard = NonFinite("stop", Path("non_finite"), prompter.decode, ranks)
    rewards = [Reward("main", 1.0, scorer), *further, *([Reward("std", 0.0, None)] if with_std else [])]
    stop = sampling.stop_rule(prompter)
    native = NativeEngine(roles, sampling, stop, prompter.pad_id, ranks.device, generation_batch_size, merge)
    return Collector(
        *(roles, prompter, sampling, rewards, ensemble, 2, _pairs, guard, ranks), engine=engine or native, **options
    )


def _pairs(rows: list[int], lengths: list[int]) -> list[list[int]]:
    return [rows[first : first + 2] for first in range(0, len(rows), 2)]
