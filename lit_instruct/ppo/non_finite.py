"""Reports NaN and inf in PPO: saves the episodes, and skips the step or stops the training."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from data_modules.rows import PromptRow
from lit_instruct.batches import Rollout
from lit_instruct.errors import UserError
from lit_instruct.files import replacing_files
from lit_instruct.models.finite import OnNonFinite
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.ppo.targets import Target
from lit_instruct.prompting import prompt_text

log = logging.getLogger(__name__)


@dataclass
class NonFinite:
    """Handles NaN and inf in rewards, losses and gradients, once per iteration."""

    action: OnNonFinite
    folder: Path
    """Where episodes are saved; each process saves its own."""
    decode: Callable[[list[int]], str]
    ranks: Ranks
    iteration: int = 0
    name: str = ""
    """Subfolder for the episodes of this iteration or validation."""
    saved: Path | None = None
    """Folder with the episodes of this iteration, once it has had a NaN or inf."""
    fault: UserError | None = None
    """Error that ends the training after this iteration."""

    def begin(self, iteration: int, name: str) -> None:
        """Starts an iteration (counted from 1) or a validation; `name` is the subfolder for its episodes."""
        self.iteration, self.saved = iteration, None
        self.name = f"{name}-process-{self.ranks.rank}" if self.ranks.count > 1 else name

    def check_rewards(
        self,
        rollouts: Sequence[Rollout],
        parts: Sequence[Sequence[int]],
        prompts: Sequence[PromptRow],
        responses: Sequence[str],
        origins: Mapping[str, str],
    ) -> None:
        """Reports the first row whose reward is NaN or inf, and saves the episodes.

        Args:
            rollouts: one per part.
            parts: row numbers of each part.
            prompts: of each row.
            responses: text of each row.
            origins: name of each reward -> option and function that it comes from, the main one first.

        Raises:
            UserError: there is one, and `action` is "stop".
        """
        wrong = _non_finite_rewards(rollouts, parts, [*origins])
        if not wrong:
            return
        name, fault, row = wrong[0]
        folder = self._save(rollouts, None, [fault for _, fault, _ in wrong])
        prompt = prompt_text(prompts[row].prompt)
        where = f"row {row} of the batch (prompt {prompt[:60]!r}, response {responses[row][:60]!r})"
        what = f"iteration {self.iteration}: {fault} for {where}"
        if self.action == "stop":
            raise UserError(
                f"{what}; the episodes are in {folder}; fix {origins[name]}, or skip such steps with "
                "--model.optimizer.on_non_finite=skip"
            )
        log.warning("%s; steps with it are skipped, the episodes are in %s", what, folder)

    def skip_step(self, minibatch: Sequence[tuple[Rollout, Target]], step: int, wrong: list[str]) -> None:
        """Saves the minibatch of a step that is not taken, unless the iteration has saved episodes before.

        Args:
            minibatch: its micro-batches.
            step: its number in the iteration, from 1.
            wrong: what is NaN or inf.
        """
        if self.saved is not None:  # the first fault of an iteration explains the others
            return
        folder = self._save([rollout for rollout, _ in minibatch], [target for _, target in minibatch], wrong)
        what = f"iteration {self.iteration}, step {step}: {', '.join(wrong)}"
        if self.action == "skip":
            log.warning("%s; the step is skipped, its minibatch is in %s", what, folder)
            return
        self.fault = UserError(
            f"{what}; the step was not taken, its minibatch is in {folder}; lower "
            "--model.optimizer.learning_rate, or skip such steps with --model.optimizer.on_non_finite=skip"
        )

    def _save(self, rollouts: Sequence[Rollout], targets: Sequence[Target] | None, wrong: list[str]) -> Path:
        self.saved = self.folder / self.name
        _save_episodes(self.saved, rollouts, targets, {"iteration": self.iteration, "wrong": wrong}, self.decode)
        return self.saved


def _non_finite_rewards(
    rollouts: Sequence[Rollout], parts: Sequence[Sequence[int]], names: Sequence[str]
) -> list[tuple[str, str, int]]:
    """Returns each reward that is NaN or inf: its name, "reward/name is nan", and its row of the batch."""
    rewards = torch.cat([rollout.reward_parts for rollout in rollouts]).cpu()
    numbers = [row for rows in parts for row in rows]
    return [
        (names[number], f"reward/{names[number]} is {float(rewards[place, number])}", numbers[place])
        for place, number in (~rewards.isfinite()).nonzero().tolist()
    ]


def _save_episodes(
    folder: Path,
    rollouts: Sequence[Rollout],
    targets: Sequence[Target] | None,
    facts: Mapping[str, Any],
    decode: Callable[[list[int]], str],
) -> None:
    """Writes episodes.safetensors, with tensors called <field>.<micro-batch>, and episodes.json, with `facts`."""
    tensors: dict[str, Tensor] = {}
    for number, rollout in enumerate(rollouts):
        parts = {name: value for name, value in rollout._asdict().items() if name not in ("trunk", "places")}
        fields = {name: value for name, value in parts.items() if value is not None}
        if targets is not None:  # shaped scores among them
            fields |= {"raw_scores": rollout.scores, **targets[number]._asdict()}
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
