"""Rounds on a tiny model, with every step run in this process."""

from __future__ import annotations

import json
import shutil
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


class Pretend:
    """Leaves what the commands of a loop leave, without a model; stops at one of them as a kill would.

    Args:
        trained: run folder whose stages are copied.
        killed_at: number of the command at which it stops.
        scores: labeler score of the policy of each round.
        pair_accuracy: 1 if reward models agree with every ranking, 0 if with none.
    """

    def __init__(
        self, trained: Path, killed_at: int | None = None, scores: Sequence[float] = (0.1, 0.2), pair_accuracy: int = 1
    ) -> None:
        self.trained, self.killed_at, self.scores, self.pair_accuracy = trained, killed_at, scores, pair_accuracy
        self.given: list[list[str]] = []

    def __call__(self, words: Sequence[str], log: Path) -> None:
        """Runs a command."""
        self.given.append([*words])
        if len(self.given) == self.killed_at:
            raise KeyboardInterrupt
        options = dict(word.removeprefix("--").partition("=")[::2] for word in words)
        if words[0] == "sample":
            self._sample(options)
        elif words[:2] == ["rm", "score"]:
            self._score(options)
        elif words[0] == "eval":
            self._evaluate(Path(options["out"]))
        else:
            shutil.copytree(self.trained / words[0], Path(words[words.index("--run") + 1]) / words[0])

    def _sample(self, options: dict[str, str]) -> None:
        rows = read(options["data.path"])
        for i, row in enumerate(rows):
            row["responses"] = [f"{Path(options['run']).parent.name} {'a' * (j + i)}" for j in range(int(options["k"]))]
        write_rows(Path(options["out"]), rows)

    def _score(self, options: dict[str, str]) -> None:
        rows = [row for path in options["data.path"].split(",") for row in read(path)]
        sign = -1 if self.pair_accuracy else 1
        write_rows(Path(options["out"]), [row | {"rewards": [sign * rank for rank in row["ranks"]]} for row in rows])

    def _evaluate(self, folder: Path) -> None:
        score = self.scores[int(folder.parent.name.removeprefix("round-"))]
        interval = {"mean": score, "ci_low": score, "ci_high": score}
        measures = {key: {"sft": interval, "ppo": interval} for key in ("labeler", "kl", "length", "distinct_2")}
        folder.mkdir(exist_ok=True)
        responses = [{"prompt": f"p{i}", "responses": {"ppo": {"labeler": score}}} for i in range(4)]
        write_rows(folder / "samples.jsonl", responses)
        (folder / "report.json").write_text(json.dumps({**measures, "judge": "labeler", "prompts": 4}))


def read(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a file of JSON lines."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


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


def run_loop(options: IterateOptions, commands: Commands | Pretend) -> Path:
    """Runs the rounds and returns their folder."""
    iterate(options, commands)
    return Path(options.run)


def broken(pairs: list[tuple[str, str]]) -> list[float]:
    """A labeler that fails."""
    raise ValueError("out of order")
