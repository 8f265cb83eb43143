"""Diagnostics of PPO that name the fault: what the logged figures say when something is wrong, and what to change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

Figures = Mapping[str, float]
log = logging.getLogger(__name__)

RATIO_ERROR = 1e-3
"""Largest |ratio - 1| before the first step that is still rounding."""
NEGATIVE_KL = -0.5
"""Nats a response; an estimate from a batch of samples may be a little below 0."""
WINDOW = 5
"""Iterations (or validations) whose mean is compared with that of the first as many."""
FALL = 0.5
"""Share of the first EOS share below which it counts as collapsed."""
GROWTH = 1.5
"""Times the first length above which it counts as exploding."""
VALUE_ITERATIONS = 20
"""Iterations after which a value function should explain something."""
STATE = ("count", "first", "last", "first_validation", "said")


class Diagnostics:
    """Watches the figures of iterations and validations; says each fault once.

    Args:
        max_new_tokens: the length limit of responses.
    """

    def __init__(self, max_new_tokens: int) -> None:
        self.max_new_tokens = max_new_tokens
        self.count = 0
        """Iterations seen."""
        self.first: list[Figures] = []
        self.last: list[Figures] = []
        """Figures of the first and of the last WINDOW iterations."""
        self.first_validation: Figures | None = None
        self.said: list[str] = []

    def iteration(self, figures: Figures) -> list[str]:
        """Takes note of an iteration's figures and returns the faults that it shows for the first time."""
        seen = {name: figures[name] for name in ("ppo/eos_share", "ppo/response_length", "ppo/explained_variance")}
        self.count += 1
        self.first = [*self.first, seen][:WINDOW]
        self.last = [*self.last, seen][-WINDOW:]
        found = {
            "ratio": _first_ratio(figures),
            "kl": _negative_kl(figures),
            "advantages": _equal_advantages(figures),
        }
        if self.count >= 2 * WINDOW:
            found["eos"] = _eos_collapse(*self._means("ppo/eos_share"))
            found["length"] = _length_explosion(*self._means("ppo/response_length"), self.max_new_tokens)
        if self.count >= VALUE_ITERATIONS:
            found["value"] = _useless_value(self.count, self._means("ppo/explained_variance")[1])
        return self._fresh(found)

    def validation(self, figures: Figures) -> list[str]:
        """Takes note of a validation's figures and returns the faults that it shows for the first time."""
        if "val/labeler" not in figures:
            return []
        seen = {name: figures[name] for name in ("val/reward", "val/labeler")}
        if self.first_validation is None:
            self.first_validation = seen
        return self._fresh({"labeler": _falling_labeler(self.first_validation, seen)})

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {name: getattr(self, name) for name in STATE}

    def load(self, state: dict[str, Any]) -> None:
        """Takes up what a checkpoint kept."""
        for name in STATE:
            setattr(self, name, state[name])

    def _means(self, name: str) -> tuple[float, float]:
        return fmean(row[name] for row in self.first), fmean(row[name] for row in self.last)

    def _fresh(self, found: dict[str, str | None]) -> list[str]:
        fresh = {name: text for name, text in found.items() if text is not None and name not in self.said}
        self.said = [*self.said, *fresh]
        return list(fresh.values())


@rank_zero_only
def warn(*faults: str | None) -> None:
    """Logs faults, on one process alone."""
    for fault in faults:
        if fault is not None:
            log.warning("PPO: %s", fault)


def uncalibrated(reward_bias: float | None) -> str | None:
    """Says that a stage's reward model was never calibrated, or None.

    Args:
        reward_bias: of its stage.json; 0 or None was never set.
    """
    if reward_bias:
        return None
    return (
        "the reward model was never calibrated: its demonstrations do not score 0 on average, so scores lie anywhere "
        "and a penalty for a missing EOS may cost too much or nothing; run `make rm` with --data.demonstrations_path, "
        "or train with --model.reward.normalize=true"
    )


def _first_ratio(figures: Figures) -> str | None:
    error = figures["ppo/first_ratio_error"]
    if error <= RATIO_ERROR:
        return None
    return (
        f"before the first step a ratio is off by {error:.2g}, though the policy is still the one that sampled: its "
        "forward is not reproducible; choose --model.dtype=float32, or a base whose results do not depend on the batch"
    )


def _negative_kl(figures: Figures) -> str | None:
    kl = figures["ppo/kl"]
    if kl >= NEGATIVE_KL:
        return None
    return (
        f"KL is {kl:.2g} nats a response, which no divergence can be: the responses do not come from the distribution "
        "whose log-probabilities are used; sample with --model.sampling.top_k=0 and --model.sampling.top_p=1"
    )


def _equal_advantages(figures: Figures) -> str | None:
    if figures["ppo/advantage_std"] > 1e-6:
        return None
    return (
        "all advantages are equal, so there is nothing to learn: the reward gives every response the same score; "
        "look at --model.reward.model (or --model.reward.function), and at --model.reward.clip"
    )


def _eos_collapse(first: float, last: float) -> str | None:
    if last >= FALL * first:
        return None
    return (
        f"the share of responses that end by themselves fell from {first:.2f} to {last:.2f}: being cut pays; raise "
        "--model.reward.missing_eos_penalty, or give cut responses a fixed --model.reward.missing_eos_score"
    )


def _length_explosion(first: float, last: float, limit: int) -> str | None:
    if last < max(GROWTH * first, 0.5 * limit):
        return None
    return (
        f"responses grew from {first:.0f} to {last:.0f} tokens: the reward likes length; look at the "
        "correlation with length in `lit-instruct rm validate`, raise --model.kl.coef, or lower "
        "--model.sampling.max_new_tokens"
    )


def _useless_value(iterations: int, explained: float) -> str | None:
    if explained > 0:
        return None
    return (
        f"after {iterations} iterations the value function explains nothing (explained variance {explained:.2f}): "
        "advantages are mostly noise; start it by --model.value.start=zero_head, set --model.value.clip_range=null, or "
        "change --model.value.learning_rate"
    )


def _falling_labeler(first: Figures, last: Figures) -> str | None:
    if last["val/reward"] <= first["val/reward"] or last["val/labeler"] >= first["val/labeler"]:
        return None
    return (
        f"the reward rose from {first['val/reward']:.2f} to {last['val/reward']:.2f} while the labeler fell from "
        f"{first['val/labeler']:.2f} to {last['val/labeler']:.2f}: the policy exploits the reward model; raise "
        "--model.kl.coef, set --model.kl.target, or collect fresh comparisons with `lit-instruct sample`"
    )
