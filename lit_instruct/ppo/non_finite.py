"""NaN and infinity in PPO: named, with the episodes saved for a look."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from lit_instruct.batches import Rollout
from lit_instruct.files import replacing_files

Targets = tuple[Tensor, Tensor]


def non_finite(figures: Mapping[str, float]) -> list[str]:
    """Returns "name is nan" (or inf, -inf) of each figure that is no finite number."""
    return [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]


def non_finite_rewards(
    rollouts: Sequence[Rollout], parts: Sequence[Sequence[int]], names: Sequence[str]
) -> list[tuple[str, int]]:
    """Returns what is wrong with rewards, and the row of the batch that got them.

    Args:
        rollouts: one a part.
        parts: row numbers of each part.
        names: of the rewards, the main one first.
    """
    found = []
    for rows, rollout in zip(parts, rollouts, strict=True):
        for place, number in (~rollout.reward_parts.isfinite()).nonzero().tolist():
            found.append((f"{names[number]} is {float(rollout.reward_parts[place, number])}", rows[place]))
    return found


def save_episodes(
    folder: Path,
    rollouts: Sequence[Rollout],
    targets: Sequence[Targets] | None,
    facts: Mapping[str, Any],
    decode: Callable[[list[int]], str],
) -> None:
    """Writes episodes.safetensors and episodes.json; tensors are called <field>.<micro-batch>.

    Args:
        folder: made where it is missing.
        rollouts: one a micro-batch.
        targets: advantages and returns of each, (B, R) float32; None where there are none yet.
        facts: what to say about them, as JSON.
        decode: ids -> text.

    Raises:
        UserError: it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for number, rollout in enumerate(rollouts):
        fields = {name: value for name, value in rollout._asdict().items() if value is not None and name != "trunk"}
        if targets is not None:
            fields |= dict(zip(("advantages", "returns"), targets[number], strict=True))
        tensors |= {f"{name}.{number}": value.detach().cpu().contiguous() for name, value in fields.items()}
    episodes = [row for rollout in rollouts for row in _texts(rollout, decode)]
    with replacing_files(folder) as scratch:
        save_file(tensors, scratch / "episodes.safetensors")
        record = json.dumps({**facts, "episodes": episodes}, indent=2, ensure_ascii=False)
        (scratch / "episodes.json").write_text(record + "\n", encoding="utf-8")


def _texts(rollout: Rollout, decode: Callable[[list[int]], str]) -> list[dict[str, str]]:
    responses = rollout.response_ids
    return [
        {
            "prompt": decode(rollout.input_ids[row, :length].tolist()),
            "response": decode(responses[row][rollout.response_mask[row]].tolist()),
            "score": str(float(rollout.scores[row])),  # JSON has no NaN
        }
        for row, length in enumerate(rollout.prompt_length.tolist())
    ]
