"""Trainings of the findings: stages through the command line, each in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import yaml

from evidence import ROOT
from evidence.cached import digest
from lit_instruct.errors import UserError
from lit_instruct.files import json_text, write_text

INTERRUPTED = 130
LAST_LINES = 3


Train = Callable[[Sequence[str], Path], None]
"""(words of the command line, file of its output): trains, or raises UserError or KeyboardInterrupt."""


def in_own_process(words: Sequence[str], log: Path) -> None:
    """Runs a command of lit-instruct and appends its output to a file.

    Raises:
        UserError: it failed; the message has the end of its output.
        KeyboardInterrupt: it was interrupted.
    """
    command = [sys.executable, "-m", "lit_instruct.cli", *words]
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT) as process,
    ):
        try:
            code = process.wait()
        except KeyboardInterrupt as interrupt:  # the process saves; Ctrl-C in a terminal reaches it too
            if interrupt.args:  # a signal to this process alone
                process.terminate()
            process.wait()
            raise
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        end = " ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
        raise UserError(f"{' '.join(words[:2])} failed: {end} (all of it is in {log})")


def run_stage(
    name: Literal["sft", "rm", "ppo"],
    config: Path,
    run: Path,
    options: Sequence[str] = (),
    train: Train = in_own_process,
) -> float:
    """Trains a stage unless it is there, resumes it if it was interrupted, and returns the seconds that it took.

    A stage that was trained with another config, other options, or another version of a file or stage that either names
    is trained anew.

    Args:
        name: of the stage.
        config: YAML file.
        run: run folder; the stage is written to its subfolder of that name, its output to <name>.log.
        options: of the command line.
        train: runs the command.

    Raises:
        UserError: it failed; the message has the end of its output.
        KeyboardInterrupt: it was interrupted; the next call resumes it.
    """
    folder, made_from = run / name, run / f"{name}.made_from.json"
    wanted = {
        "config": digest(config),
        "options": [*options],
        "files": _named([*_values(config), *(option.partition("=")[2] for option in options)]),
    }
    if not made_from.is_file() or json.loads(made_from.read_text(encoding="utf-8")) != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        run.mkdir(parents=True, exist_ok=True)
        write_text(made_from, json_text(wanted), "--runs")
    if not (folder / "stage.json").is_file():
        resumed = ["--ckpt_path=last"] if (folder / "checkpoints/last.ckpt").is_file() else []
        print(f"evidence: {name} of {run}", flush=True)
        train([name, "fit", "--config", str(config), "--run", str(run), *options, *resumed], run / f"{name}.log")
    return float(json.loads((folder / "stage.json").read_text(encoding="utf-8"))["seconds"])


def _values(config: Path) -> list[str]:
    """The values that a YAML file gives, as texts, at any depth."""
    found, rest = [], [yaml.safe_load(config.read_text(encoding="utf-8"))]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            rest.extend(value.values())
        else:
            found.append(str(value))
    return found


def _named(values: Sequence[str]) -> dict[str, str]:
    """Files and stages that values of options name, with digests of their content."""
    places = [Path(part) for value in values for part in value.split(",") if part]
    known = [place for place in places if (ROOT / place).is_file() or (ROOT / place / "stage.json").is_file()]
    return {str(place): digest(ROOT / place) for place in known}
