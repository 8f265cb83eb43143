"""Rounds on a tiny model, with every step run in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_instruct.cli import main
from lit_instruct.errors import UserError
from lit_instruct.iterating.loop import iterate
from lit_instruct.iterating.options import FreshPrompts, IterateOptions, Stages
from lit_instruct.rollouts.generate import SamplingOptions
from tests.lit_instruct.stages.helpers import FLOAT, QUICK, Files, prompts, write_rows

LABELER = "tests.lit_instruct.iterating.helpers.letters"
STAGES: dict[str, Any] = {
    "rm": {"trainer": {"max_epochs": 2}, "data": {"batch_size": 4}},
    "ppo": {
        "model": {
            "iterations": 2,
            "objective": {"minibatches": 2},
            "sampling": {"max_new_tokens": 6},
            "selection": {"labeler": LABELER},
        },
        "data": {"batch_size": 4},
        "trainer": {"val_check_interval": 1, "check_val_every_n_epoch": None},
    },
    "eval": {"limit": 4, "max_new_tokens": 6, "labeler": LABELER},
}


def letters(pairs: list[tuple[str, str]]) -> list[float]:
    """Scores a response by its letters a and e."""
    return [sum(map(text.count, "ae")) - 0.01 * len(text) for _, text in pairs]


class Commands:
    """Runs the steps of a loop in this process and notes their words; stops at one of them as a kill would."""

    def __init__(self, killed_at: int | None = None) -> None:
        self.killed_at = killed_at
        self.given: list[list[str]] = []

    def __call__(self, words: Sequence[str], log: Path) -> None:
        """Runs a command."""
        self.given.append([*words])
        if len(self.given) == self.killed_at:
            raise KeyboardInterrupt
        if code := main([*words]):
            raise UserError(f"{' '.join(words[:2])} failed with {code}")


def configs(folder: Path, files: Files) -> Stages:
    """Config files of tiny stages."""
    for name, content in STAGES.items():
        own = content | ({"prompts": str(files.ppo_validation)} if name == "eval" else {})
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(own))
    more = ["--model.lora.top_layers=2", *FLOAT, *QUICK]
    ppo = [f"--data.path={files.ppo}", f"--data.validation_path={files.ppo_validation}"]
    return Stages(*(str(folder / f"{name}.yaml") for name in STAGES), rm_options=more, ppo_options=[*more, *ppo])


def loop_options(folder: Path, files: Files, sft: Path, **other: Any) -> IterateOptions:
    """Options of two rounds of eight prompts, four of which are held out."""
    asked = write_rows(folder / "fresh.jsonl", prompts(20, seed=5))
    given: dict[str, Any] = {
        "prompts": FreshPrompts(str(asked), per_round=8, held_out=0.5),
        "stages": configs(folder, files),
        "run": str(folder / "loop"),
        "rounds": 2,
        "sft": str(sft),
        "k": 3,
        "labeler": LABELER,
        "sampling": SamplingOptions(max_new_tokens=6),
    }
    return IterateOptions(**given | other)


def run_loop(options: IterateOptions, commands: Commands) -> Path:
    """Runs the rounds and returns their folder."""
    iterate(options, commands)
    return Path(options.run)


def broken(pairs: list[tuple[str, str]]) -> list[float]:
    """A labeler that fails."""
    raise ValueError("out of order")
