"""Diagnostics of PPO: what the logged figures say about a training that goes wrong, and which option to change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from statistics import fmean
from typing import Any

Figures = Mapping[str, float]
log = logging.getLogger(__name__)

RATIO_ERROR = 1e-3
"""Largest |ratio - 1| before the first step that rounding explains."""
NEGATIVE_KL = -0.5
"""Nats per response; the estimate from a batch of samples may be slightly below 0."""
WINDOW = 5
"""The mean of the last this many iterations is compared with the mean of the first ones."""
FALL = 0.5
"""The EOS share has collapsed below this share of its first value."""
GROWTH = 1.5
"""The length explodes above this multiple of its first value."""
VALUE_ITERATIONS = 20
"""Iterations after which a value function should explain something."""
STATE = ("count", "first", "last", "first_validation", "said")


class Diagnostics:
    """Watches the figures of iterations and validations, and reports each fault once.

    Args:
        max_new_tokens: the length limit of responses.
    """

    def __init__(self, max_new_tokens: int) -> None:
        self.max_new_tokens = max_new_tokens
        self.count = 0
        """Number of iterations."""
        self.first: list[Figures] = []
        self.last: list[Figures] = []
        """Figures of the first and of the last WINDOW iterations."""
        self.first_validation: Figures | None = None
        self.said: list[str] = []

    def iteration(self, figures: Figures) -> list[str]:
        """Records the figures of an iteration and returns the faults that show for the first time."""
        seen = {name: figures[name] for name in ("ppo/eos_share", "ppo/response_length", "ppo/explained_variance")}
        self.count += 1
        self.first = [*self.first, seen][:WINDOW]
        self.last = [*self.last, seen][-WINDOW:]
        found = _of_one_iteration(figures)
        if self.count >= 2 * WINDOW:
            found |= self._trends(figures["ppo/reward_length_correlation"])
        explained = fmean(row["ppo/explained_variance"] for row in self.last)
        if self.count >= VALUE_ITERATIONS and explained <= 0:
            found["value"] = (
                f"after {self.count} iterations the value function explains nothing (explained variance "
                f"{explained:.2f}): advantages are mostly noise; try --model.value.start=zero_head, "
                "--model.value.clip_range=null, or another --model.value.learning_rate"
            )
        return self._fresh(found)

    def validation(self, figures: Figures) -> list[str]:
        """Records the figures of a validation and returns the faults that show for the first time."""
        if "val/labeler" not in figures:
            return []
        last = {name: figures[name] for name in ("val/reward", "val/labeler")}
        first = self.first_validation = self.first_validation or last
        if last["val/reward"] <= first["val/reward"] or last["val/labeler"] >= first["val/labeler"]:
            return []
        text = (
            f"the reward rose from {first['val/reward']:.2f} to {last['val/reward']:.2f} while the labeler fell from "
            f"{first['val/labeler']:.2f} to {last['val/labeler']:.2f}: the policy exploits the reward model; raise "
            "--model.kl.coef, set --model.kl.target, or collect fresh comparisons with `lit-instruct sample`"
        )
        return self._fresh({"labeler": text})

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {name: getattr(self, name) for name in STATE}

    def load(self, state: dict[str, Any]) -> None:
        """Restores the state of a checkpoint."""
        for name in STATE:
            setattr(self, name, state[name])

    def _trends(self, correlation: float) -> dict[str, str]:
        """Compares the last iterations with the first; `correlation` is that of reward and length now."""
        found = {}
        first, last = (fmean(row["ppo/eos_share"] for row in rows) for rows in (self.first, self.last))
        if last < FALL * first:
            found["eos"] = (
                f"the share of responses that end by themselves fell from {first:.2f} to {last:.2f}: hitting the "
                "length limit is being rewarded; raise --model.reward.missing_eos_penalty, or give cut responses a "
                "fixed --model.reward.missing_eos_score"
            )
        first, last = (fmean(row["ppo/response_length"] for row in rows) for rows in (self.first, self.last))
        if last >= max(GROWTH * first, 0.5 * self.max_new_tokens):
            found["length"] = (
                f"responses grew from {first:.0f} to {last:.0f} tokens, and reward and length correlate by "
                f"{correlation:.2f}: the reward likes length; check it at like length with `lit-instruct rm validate`, "
                "set --model.reward.length_penalty, raise --model.kl.coef, or lower --model.sampling.max_new_tokens"
            )
        return found

    def _fresh(self, found: dict[str, str]) -> list[str]:
        fresh = {name: text for name, text in found.items() if name not in self.said}
        self.said = [*self.said, *fresh]
        return list(fresh.values())


def _of_one_iteration(figures: Figures) -> dict[str, str]:
    found = {}
    if figures["ppo/first_ratio_error"] > RATIO_ERROR:
        found["ratio"] = (
            f"before the first step a ratio is off by {figures['ppo/first_ratio_error']:.2g}, though the policy is "
            "still the one that sampled: its forward is not reproducible; choose --model.dtype=float32, or a base "
            "whose results do not depend on the batch"
        )
    if figures["ppo/kl"] < NEGATIVE_KL:
        found["kl"] = (
            f"KL is {figures['ppo/kl']:.2g} nats per response, which no divergence can be: the responses do not come "
            "from the distribution whose log-probabilities are used; sample with --model.sampling.top_k=0 and "
            "--model.sampling.top_p=1"
        )
    if figures["ppo/advantage_std"] <= 1e-6:
        found["advantages"] = (
            "all advantages are equal, so there is nothing to learn: the reward gives every response the same score; "
            "check --model.reward.model (or --model.reward.function) and --model.reward.clip"
        )
    return found


def warn(*faults: str) -> None:
    """Logs faults, on one process only."""
    from lightning.pytorch.utilities import rank_zero_only  # heavy; `watch` needs only the rules above

    if rank_zero_only.rank == 0:
        for fault in faults:
            log.warning("PPO: %s", fault)


UNCALIBRATED = (
    "the reward model was never calibrated: its demonstrations do not score 0 on average, so the offset of its scores "
    "is arbitrary and a penalty for a missing EOS may be far too large or have no effect; train it with "
    "--data.demonstrations_path, or train with --model.reward.normalize=true"
)
"""Fault of a stage whose reward bias is 0 or missing."""
