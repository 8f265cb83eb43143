"""Options that have been renamed or removed since 0.1.0."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_instruct.errors import UserError

RENAMED = {
    "model.reward": "model.reward.model",
    "model.reward_function": "model.reward.function",
    "model.further_rewards": "model.reward.further",
    "model.labeler": "model.selection.labeler",
    "model.ppo.clip_range": "model.objective.clip_range",
    "model.ppo.discount": "model.objective.discount",
    "model.ppo.gae_lambda": "model.objective.gae_lambda",
    "model.ppo.inner_epochs": "model.objective.inner_epochs",
    "model.ppo.minibatches": "model.objective.minibatches",
    "model.ppo.micro_batch_size": "model.memory.micro_batch_size",
    "model.ppo.value_clip_range": "model.value.clip_range",
    "model.ppo.kl_coef": "model.kl.coef",
    "model.ppo.kl_estimator": "model.kl.estimator",
    "model.ppo.missing_eos_penalty": "model.reward.missing_eos_penalty",
    "model.shaping.missing_eos_score": "model.reward.missing_eos_score",
    "model.shaping.normalize_rewards": "model.reward.normalize",
    "model.shaping.reward_scale": "model.reward.scale",
    "model.shaping.reward_clip": "model.reward.clip",
    "model.shaping.whiten_rewards": "model.reward.whiten",
    "model.shaping.whiten_advantages": "model.objective.whiten_advantages",
    "model.shaping.entropy_coef": "model.objective.entropy_coef",
    "model.shaping.value_coef": "model.value.coef",
    "model.value": "model.value.start",
    "model.optimizer.value_learning_rate": "model.value.learning_rate",
    "model.kl_control.target": "model.kl.target",
    "model.kl_control.gain": "model.kl.gain",
    "model.kl_control.bound": "model.kl.bound",
    "model.kl_control.on_bound": "model.kl.on_bound",
    "model.generation_batch_size": "model.memory.generation_batch_size",
    "model.merge_for_rollouts": "model.memory.merge_for_rollouts",
}
"""Options of PPO, old name -> new name. `model.reward` and `model.value` were single values and are groups now."""
REMOVED = {"weights_only": "only tensors and plain values are read from a checkpoint"}
"""Options of every stage that are gone, and why."""


def translated(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options by their present names; `options` may be a checkpoint's of 0.1.0, by dotted name."""
    return {RENAMED.get(name, name): value for name, value in options.items()}


def refuse_old_names(stage: str, words: Sequence[str]) -> None:
    """Refuses old names of a stage's options on the command line or in a YAML config.

    Args:
        stage: sft, rm or ppo.
        words: of the command line, after the stage.

    Raises:
        UserError: the message gives the new names.
    """
    now = {old: f"is called --{new} now" for old, new in RENAMED.items()} if stage == "ppo" else {}
    now |= {old: f"is gone, {reason}; leave it out" for old, reason in REMOVED.items()}
    try:
        found = {f"--{old}{where}": now[old] for old, where in _given(words) if old in now}
    except RecursionError:  # YAML that nests too deep, or contains itself, which the parser refuses later
        return
    if found:
        raise UserError("; ".join(f"{old}: {what}" for old, what in found.items()))


def _given(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the dotted name of every option that is given, and the file that gives it."""
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            continue
        name, value = name.removeprefix("--"), value if equals else following
        in_file = name == "config"
        where = f" (in {value})" if in_file else ""
        parsed = None if name.endswith("+") else _parsed(value, in_file)  # `+=` adds one item to a list
        for option in _dotted(parsed, "" if in_file else name.removesuffix("+")):
            yield re.sub("^(fit|validate|test)[.]", "", option), where


def _dotted(value: Any, name: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield name.removeprefix(".")
        return
    for part, inner in value.items():
        yield from _dotted(inner, f"{name}.{part}")


def _parsed(text: str, is_file: bool) -> Any:
    """Returns the value of a YAML text or file; None if it is not valid, which the parser refuses later."""
    try:
        return yaml.safe_load(Path(text).read_text(encoding="utf-8") if is_file else text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
