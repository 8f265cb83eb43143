"""Options of `lit-instruct eval`."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lit_instruct.errors import UserError
from lit_instruct.rollouts.function_names import Function, check_function, function_name

LABELER, REWARD_FUNCTION = "labeler", "reward function"
"""What the main judge of a report is called: the run's own reward function is no labeler."""
REWARD = "reward"
"""As a labeler: the scores of the run's own reward model."""


@dataclass
class EvalOptions:
    """What `lit-instruct eval` compares and how."""

    run: str = "runs/demo"
    """Run folder: its stages among sft, rm and ppo are compared, and the report goes to its folder eval. With --config=
    recipes/<name>/eval.yaml it is runs/<name>."""
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
    """Labeler whose scores come first in the report: an import path or what else docs/labelers.md names, or reward for
    the run's reward model; null takes the run's reward function, or else its reward model."""
    second_labeler: Function | None = None
    """A labeler that was not used in training; null takes the overlap with the reference responses if
    every row has one, or else points off for unfinished and repetitive text."""
    batch_size: int = 64
    """Responses sampled in parallel."""
    quantize: Literal["none", "8bit", "4bit"] | None = None
    """Bits of the models' bases; null uses those of their stages, and none for the base itself."""
    systems: dict[str, str] | None = None
    """Models to compare instead of a run's stages, each by a name: --systems.a=runs/x/ppo --systems.b=org/model. Stage
    folders, folders, adapters and hub ids; the first is the baseline."""
    reference: str | None = None
    """Model that the KL is measured to; null takes the SFT model that the others started from."""
    reward_model: str | None = None
    """Reward model for its scores; null takes the one of the run, or that all systems were trained with."""
    out: str | None = None
    """Folder of the report; null is eval in the run folder, or runs/eval-<names> for systems."""
    seen: Literal["leave_out", "keep"] = "leave_out"
    """What happens to prompts that a compared stage trained on: they are left out, or kept and not called held out."""
    tasks: str | None = None
    """Tasks of lm_eval that the systems answer too, with commas: names such as piqa,boolq; task files (.yaml); or
    .jsonl files of {query, choices, gold} or {text}. Needs `pip install 'lit-instruct[tasks]'`."""
    tasks_limit: int | None = None
    """Number of questions per task, spread evenly over it; null uses all."""
    tasks_chat_template: bool = False
    """Asks the questions of tasks in the models' prompt format; by default they are raw text, as in lm_eval."""

    def __post_init__(self) -> None:
        self._check_systems()
        for name in ("labeler", "second_labeler"):
            check_function(getattr(self, name), f"--{name}")
        for name in ("best_of", "max_new_tokens", "batch_size", "limit", "tasks_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name}: {value} is below 1; give a positive number")
        if not self.temperature > 0:
            raise UserError(f"--temperature: {self.temperature} is not above 0; give a positive number")

    def _check_systems(self) -> None:
        if self.systems is None:
            return
        if len(self.systems) < 2:
            raise UserError("--systems: name at least two, such as --systems.a=runs/x/ppo --systems.b=runs/y/ppo")
        for name in self.systems:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", name) or re.search("_(minus|vs|over)_", name):
                raise UserError(
                    f"--systems.{name}: not a name for a system; use up to 32 letters, digits, - and _ (but not "
                    "_minus_, _vs_ and _over_, which the report uses)"
                )


def options_record(options: EvalOptions) -> dict[str, Any]:
    """Returns the options as the report has them: functions by name.

    It is no method, because the command line takes methods of a class of options for its subcommands.
    """
    names = [None if given is None else function_name(given) for given in (options.labeler, options.second_labeler)]
    return asdict(replace(options, labeler=names[0], second_labeler=names[1]))
