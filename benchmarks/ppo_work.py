"""The workloads of the PPO benchmark, the fewest floating-point operations that they take, and their goals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

OURS = {"ours": 0, "ours_top_third": 3}
"""Our sides, and which part of the layers LoRA adapts: 0 is all of them, 3 the uppermost third."""
MICRO_BATCH_SIZES = {"trl": 8, "ours": 32, "ours_top_third": 32}
"""Side -> sequences of a forward: what it is fastest with. TRL's takes longer with 16 or 32, and twice the memory."""
MEMORY_GOAL = 1 / 3
"""Most of TRL's peak memory that ours may take; like the goals below, the project's own, set before measuring."""
PEAK_GOALS = {"update": 0.5, "scoring": 0.7}
"""Share of the matmul peak that LoRA on every layer should reach."""


@dataclass(frozen=True)
class Workload:
    """One iteration of PPO."""

    episodes: int  # prompts, each answered once
    response_tokens: int  # per response; none ends earlier
    inner_epochs: int  # optimizer steps, each over all episodes
    speed_goals: dict[str, float]  # our side -> episodes per second relative to TRL

    @property
    def name(self) -> str:
        """Such as 32x24x2."""
        return f"{self.episodes}x{self.response_tokens}x{self.inner_epochs}"

    def smaller(self) -> Workload:
        """Returns the workload with a quarter of the episodes and of their tokens, for --quick."""
        return replace(self, episodes=self.episodes // 4, response_tokens=self.response_tokens // 4)


WORKLOADS = {
    work.name: work
    for work in (
        Workload(32, 24, 2, {"ours": 2.5, "ours_top_third": 4.5}),
        Workload(32, 128, 1, {"ours": 3.5, "ours_top_third": 4.5}),
    )
}


@dataclass(frozen=True)
class Shape:
    """What a model's matrix products depend on."""

    layers: int  # of the decoder
    adapted: int  # uppermost layers, with LoRA; the output of those below is computed once for all roles
    layer_weights: int  # in one layer's linear maps
    head_weights: int  # in the output embedding

    @property
    def trunk(self) -> int:
        """Layers below the first adapted one; none if all are adapted."""
        return self.layers - self.adapted


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of the parts of an iteration, a lower bound: a forward takes two per weight and token.

    Attention, normalisation, the adapters' own products and padding are not counted; nor is the vocabulary anywhere
    but where a response token is predicted, nor the gradient of a frozen weight.
    """

    rollout: float  # prompts and responses through the policy
    scoring: float  # reference, policy, value and reward on all tokens
    update: float  # policy and value forward and backward, in all inner epochs

    @property
    def total(self) -> float:
        """Of the iteration."""
        return self.rollout + self.scoring + self.update


def operations(shape: Shape, tokens: int, response_tokens: int, inner_epochs: int, own_value: bool) -> Operations:
    """Returns a lower bound of the operations of an iteration.

    Args:
        shape: of the model.
        tokens: in prompts and responses, without padding.
        response_tokens: in responses.
        inner_epochs: passes of the update over them.
        own_value: whether the value function has its own adapters, rather than a head on the policy's decoder.
    """
    layer = 2 * shape.layer_weights * tokens
    head = 2 * shape.head_weights * response_tokens
    scored = 4 if own_value else 3
    trained = 2 if own_value else 1
    return Operations(
        rollout=shape.layers * layer + head,
        scoring=(shape.trunk + scored * shape.adapted) * layer + 2 * head,  # of reference and policy
        update=inner_epochs * 2 * (trained * shape.adapted * layer + head),  # forward, and backward to the inputs
    )


def shares_of_peak(needed: Operations, seconds: dict[str, float], peak: float) -> dict[str, float]:
    """Returns which share of the matmul peak, in operations per second, scoring, update and the iteration reach.

    `seconds` has those of scoring and update, and of the iteration under "seconds".
    """
    parts = {"scoring": needed.scoring, "update": needed.update, "seconds": needed.total}
    found = {part: round(count / seconds[part] / peak, 3) for part, count in parts.items()}
    return {"scoring": found["scoring"], "update": found["update"], "iteration": found["seconds"]}


def goals(work: Workload, side: str, ratio: float, memory: float, of_peak: dict[str, float]) -> dict[str, Any]:
    """Returns the goals of one of our sides, and whether it reaches them; `ratio` and `memory` are relative to TRL."""
    asked: dict[str, Any] = {}
    if side in work.speed_goals:
        asked["ratio"] = {"goal": work.speed_goals[side], "reached": ratio >= work.speed_goals[side]}
    asked["memory_ratio"] = {"goal": round(MEMORY_GOAL, 3), "reached": memory <= MEMORY_GOAL}
    if side == "ours":
        asked |= {part: {"goal": goal, "reached": of_peak[part] >= goal} for part, goal in PEAK_GOALS.items()}
    return asked
