"""The rewards of a run: the reward role or another main reward, and the further ones."""

from __future__ import annotations

from collections.abc import Callable

from lit_instruct.ppo.collect import Reward
from lit_instruct.ppo.options import RewardOptions
from lit_instruct.rollouts.reward_functions import TextScorer, function_scorer


def rewards_of(options: RewardOptions, role: bool, open_model: Callable[[str], TextScorer]) -> list[Reward]:
    """Returns the main reward, then the further ones.

    Args:
        options: where rewards come from.
        role: whether the main one is a role on the shared base.
        open_model: opens a reward model that reads text.

    Raises:
        UserError: one cannot be opened or imported.
    """

    def scorer(model: str | None, function: str | None, option: str) -> TextScorer:
        # NaN is found where all rewards are checked, which names the row and saves the episodes.
        if function is not None:
            return function_scorer(function, False, option)
        assert model is not None
        return open_model(model)

    main = None if role else scorer(options.model, options.function, "--model.reward.function")
    further = [
        Reward(r.name, r.weight, scorer(r.model, r.function, f"--model.reward.further: {r.name!r}, function"))
        for r in options.further
    ]
    return [Reward("main", 1.0, main), *further]
