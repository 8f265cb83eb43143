"""Options of `lit-instruct eval`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lit_instruct.errors import UserError
from lit_instruct.rollouts.function_names import Function, function_name

REWARD = "reward"
"""As a labeler: the scores of the run's own reward model."""


@dataclass
class EvalOptions:
    """What `lit-instruct eval` compares and how."""

    run: str = "runs/demo"
    """Run folder with the stages sft, rm and ppo; the report goes to its folder eval."""
    prompts: str | None = None
    """Held-out prompts: a file with prompt and optionally use_case and reference, a folder's split or a hub id with its
    split; null takes the validation prompts of the run's PPO stage."""
    limit: int | None = None
    """Number of prompts to use, spread evenly over the file; null uses all."""
    best_of: int = 8
    """n of best-of-n: number of SFT samples that the reward model chooses from."""
    max_new_tokens: int | None = None
    """Maximum number of tokens per response; null takes PPO's."""
    temperature: float = 1.0
    """Sampling temperature of all systems; the KL is exact only at 1."""
    seed: int = 0
    """Seed of sampling and bootstrap."""
    labeler: Function | None = None
    """Import path of the labeler whose scores come first in the report, or reward for the run's reward model; null
    takes the run's reward function, or else its reward model."""
    second_labeler: Function | None = None
    """Import path of a labeler that was not used in training; null takes the overlap with the reference responses if
    every row has one, or else points off for unfinished and repetitive text."""
    batch_size: int = 64
    """Responses sampled in parallel."""
    quantize: Literal["none", "8bit", "4bit"] | None = None
    """Bits of the models' bases; null uses those of their stages, and none for the base itself."""

    def __post_init__(self) -> None:
        for name in ("best_of", "max_new_tokens", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name}: {value} is below 1; give a positive number")
        if not self.temperature > 0:
            raise UserError(f"--temperature: {self.temperature} is not above 0; give a positive number")

    def record(self) -> dict[str, Any]:
        """Returns the options as the report has them: functions by name."""
        names = [None if given is None else function_name(given) for given in (self.labeler, self.second_labeler)]
        return asdict(replace(self, labeler=names[0], second_labeler=names[1]))
