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
    """Held-out prompts, one JSON object a line: prompt, use_case (optional)."""
    limit: int | None = None
    """Most prompts to use, spread evenly over the file; none = all."""
    best_of: int = 8
    """n of best-of-n: samples from the SFT model, of which the reward model picks one."""
    max_new_tokens: int = 48
    """Longest response in tokens; take what PPO trained with."""
    temperature: float = 1.0
    """Sampling temperature of all systems; the KL is exact at 1 only, where the model itself is sampled."""
    seed: int = 0
    """Seed of sampling and of the bootstrap."""
    labeler: str = "lit_instruct.evaluation.labelers.tone"
    """Import path of the labeler whose scores the report leads with."""
    second_labeler: str = "lit_instruct.evaluation.labelers.second_opinion"
    """Import path of a labeler that no training used."""
    batch_size: int = 64
    """Responses generated at once."""
    quantize: Literal["none", "8bit", "4bit"] | None = None
    """Bits of the models' bases; null takes those that their stages trained on, and none for the base itself."""

    def __post_init__(self) -> None:
        for name in ("best_of", "max_new_tokens", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name}: {value} is below 1; give a positive number")
        if not self.temperature > 0:
            raise UserError(f"--temperature: {self.temperature} is not above 0; give a positive number")
