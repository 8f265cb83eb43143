"""Where the files of a round are, and which policies there were before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Round:
    """A round in the folder of a loop."""

    loop: Path
    """Such as runs/loop."""
    number: int

    @property
    def folder(self) -> Path:
        """A run folder, with the stages rm and ppo and the evaluation."""
        return self.loop / f"round-{self.number}"

    @property
    def comparisons(self) -> Path:
        """Folder of the prompts, responses and rankings."""
        return self.folder / "comparisons"

    @property
    def train(self) -> Path:
        """Comparisons that reward models learn from."""
        return self.comparisons / "train.jsonl"

    @property
    def held_out(self) -> Path:
        """Comparisons that no reward model learns from."""
        return self.comparisons / "held_out.jsonl"

    @property
    def rm(self) -> Path:
        """Stage folder of the reward model."""
        return self.folder / "rm"

    @property
    def ppo(self) -> Path:
        """Stage folder of the policy."""
        return self.folder / "ppo"

    @property
    def eval(self) -> Path:
        """Folder of the report."""
        return self.folder / "eval"

    @property
    def name(self) -> str:
        """For people."""
        return f"round {self.number}"

    def earlier(self) -> list[Round]:
        """Returns the rounds before this one, the first of them first."""
        return [Round(self.loop, number) for number in range(self.number)]


def policies_before(one: Round, sft: Path) -> list[Path]:
    """Returns the stage folders of all policies before a round: the SFT model, then those of earlier rounds."""
    return [sft, *(earlier.ppo for earlier in one.earlier())]
