"""Options of `lit-instruct eval`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_instruct.errors import UserError


@dataclass
class EvalOptions:
    """What `lit-instruct eval` compares and how."""

    run: str = "runs/demo"
    """Run folder with the stages sft, rm and ppo; the report goes to its folder eval."""
    prompts: str = "recipes/demo/data/prompts_validation.jsonl"
    """Held-out prompts, one JSON object per line: prompt and optionally use_case."""
    limit: int | None = None
    """Number of prompts to use, spread evenly over the file; null uses all."""
    best_of: int = 8
    """n of best-of-n: number of SFT samples that the reward model chooses from."""
    max_new_tokens: int = 48
    """Maximum number of tokens per response; use PPO's."""
    temperature: float = 1.0
    """Sampling temperature of all systems; the KL is exact only at 1."""
    seed: int = 0
    """Seed of sampling and bootstrap."""
    labeler: str = "lit_instruct.evaluation.labelers.tone"
    """Import path of the labeler whose scores come first in the report."""
    second_labeler: str = "lit_instruct.evaluation.labelers.second_opinion"
    """Import path of a labeler that was not used in training."""
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
