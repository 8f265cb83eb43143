"""All options of PPO in one place."""

from __future__ import annotations

from typing import NamedTuple

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
from lit_instruct.rollouts.generate import SamplingOptions


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
