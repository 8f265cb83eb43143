"""A stage's folder as it is now: log, progress, samples and record, whether its training goes on or has ended."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lit_instruct.commands.expected import read_record
from lit_instruct.errors import UserError
from lit_instruct.evaluation.charts import Curves
from lit_instruct.evaluation.training_charts import read_curves
from lit_instruct.files import complete_lines
from lit_instruct.json_types import wrong_values
from lit_instruct.progress import PROGRESS_FILE

STAGES = ("sft", "rm", "ppo")
PROGRESS = {
    "first": int,
    "done": int,
    "total": int | None,
    "began": float,
    "stepped": float,
    "written": float,
    "phase": str,
    "ended": str | None,
    "peak_memory_gb": float | None,
}
"""Fields of progress.json and their types (`running.progress_file`)."""


@dataclass
class StageLog:
    """What the files of a stage say; each is read when it is first asked for."""

    folder: Path
    """Such as runs/demo/ppo."""
    wrong: list[str] = field(default_factory=list)
    """What could not be read, in sentences."""

    @property
    def stage(self) -> str:
        """sft, rm or ppo."""
        return self.folder.name

    @cached_property
    def record(self) -> dict[str, Any] | None:
        """The content of stage.json; None if it is not there or cannot be read."""
        try:
            return read_record(self.folder.parent, self.stage)
        except UserError as error:
            self.wrong.append(str(error))
            return None

    @cached_property
    def progress(self) -> dict[str, Any] | None:
        """The content of logs/progress.json; None for a training that writes none, or has not begun."""
        path = self.folder / "logs" / PROGRESS_FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError) as error:
            self.wrong.append(f"{path}: cannot be read ({error})")
            return None
        if not isinstance(found, dict) or PROGRESS.keys() - found.keys() or wrong_values(found, PROGRESS):
            self.wrong.append(f"{path}: damaged; the next training replaces it")
            return None
        return found

    @cached_property
    def curves(self) -> Curves:
        """Columns of logs/metrics.csv, without the values of batches that are known not to be full."""
        return read_curves(self.folder, self)

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """The lines of logs/samples.jsonl that are complete; only PPO writes one."""
        path = self.folder / "logs" / "samples.jsonl"
        if not path.is_file():
            return []
        found, bad = [], []
        for number, line in enumerate(complete_lines(path), 1):
            try:
                row = json.loads(line)
                found.append(
                    {"iteration": int(row["iteration"]), "prompt": row["prompt"], "response": row["response"]} | row
                )
            except (ValueError, TypeError, KeyError, RecursionError):
                bad.append(number)
        if bad:
            self.wrong.append(f"{path}:{bad[0]}: no sample" + (f", and {len(bad) - 1} more lines" if bad[1:] else ""))
        return found

    @cached_property
    def config(self) -> dict[str, Any]:
        """The options that the training was started with, of logs/config.yaml; {} without that file."""
        path = self.folder / "logs" / "config.yaml"
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            self.wrong.append(f"{path}: damaged")
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def options(self) -> dict[str, Any] | None:
        """Options of `model`, `data` and `trainer` as the stage recorded them, or else as they were given."""
        recorded = (self.record or {}).get("options")
        return (
            recorded
            if isinstance(recorded, dict)
            else {name: self.config.get(name) for name in ("model", "data", "trainer")}
        )

    @property
    def data(self) -> dict[str, Any] | None:
        """What the stage recorded of its rows; None while it trains."""
        found = (self.record or {}).get("data")
        return found if isinstance(found, dict) else None


def stages_in(run: Path) -> list[StageLog]:
    """Returns the stages that a run has by now: sft, rm, ppo.

    Raises:
        UserError: there is no such run folder, or it has no stage.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder; check the path")
    found = [StageLog(run / name) for name in STAGES if is_stage(run / name)]
    if not found:
        if is_stage(run) and run.absolute().name in STAGES:
            raise UserError(f"{run}: this is a stage; give the folder of the run, {run.absolute().parent}")
        inner = sorted(path.name for path in run.iterdir() if path.is_dir() and any(is_stage(path / s) for s in STAGES))
        hint = f"there are runs in it, such as {run / inner[0]}" if inner else "start a training with --run first"
        raise UserError(f"{run}: none of the stages sft, rm and ppo is in this folder; {hint}")
    return found


def is_stage(folder: Path) -> bool:
    """Tells whether a folder holds the logs or the record of a stage, or a training that has just started."""
    return any(
        (folder / name).exists() for name in ("stage.json", "logs/metrics.csv", f"logs/{PROGRESS_FILE}", ".lock")
    )
