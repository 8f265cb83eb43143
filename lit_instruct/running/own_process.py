"""Commands of lit-instruct that another one runs, each in a process of its own: stages that are kept and resumed."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from lit_instruct.errors import UserError
from lit_instruct.files import digest, json_text, write_text
from lit_instruct.running.interrupts import EXIT_CODE

LAST_LINES = 3
DIES_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""
Run = Callable[[Sequence[str], Path], None]
"""(words of the command line, file of its output): runs a command, or raises UserError or KeyboardInterrupt."""


def in_own_process(words: Sequence[str], log: Path, folder: Path | None = None) -> None:
    """Runs a command of lit-instruct and appends its output to a file.

    It ends when this process is killed, so that the same command can be started again at once (on Linux).

    Args:
        words: of its command line.
        log: file of its output.
        folder: where it runs; None is the current one.

    Raises:
        UserError: it failed; the message has the end of its output.
        KeyboardInterrupt: it was interrupted.
    """
    command = [sys.executable, "-m", "lit_instruct.cli", *words]
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=folder, preexec_fn=_bound()
        ) as process,
    ):
        try:
            code = process.wait()
        except KeyboardInterrupt as interrupt:  # the process saves; Ctrl-C in a terminal reaches it too
            if interrupt.args:  # a signal to this process alone
                process.terminate()
            process.wait()
            raise
    if code == EXIT_CODE:
        raise KeyboardInterrupt
    if code:
        end = " ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
        raise UserError(f"{' '.join(words[:2])} failed: {end} (all of it is in {log})")


def _bound() -> Callable[[], object] | None:
    """A function that binds the life of a new process to that of this one; None where the system cannot."""
    parent = os.getpid()
    with contextlib.suppress(OSError, AttributeError):
        prctl: Any = ctypes.CDLL(None).prctl  # found before the fork

        def bind() -> None:
            prctl(DIES_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != parent:  # it was killed before that
                os._exit(1)

        return bind
    return None


def run_stage(
    name: Literal["sft", "rm", "ppo"],
    config: Path,
    run: Path,
    options: Sequence[str] = (),
    train: Run = in_own_process,
    root: Path = Path(),
    tell: Callable[[str], object] = print,
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
        root: folder that relative paths of the options start from.
        tell: is called with a line before a training.

    Raises:
        UserError: it failed; the message has the end of its output.
        KeyboardInterrupt: it was interrupted; the next call resumes it.
    """
    folder, made_from = run / name, run / f"{name}.made_from.json"
    wanted = {
        "config": digest(root / config),
        "options": [*options],
        "files": named_files([*values_of(root / config), *(option.partition("=")[2] for option in options)], root),
    }
    if not made_from.is_file() or json.loads(made_from.read_text(encoding="utf-8")) != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        run.mkdir(parents=True, exist_ok=True)
        write_text(made_from, json_text(wanted), "--runs")
    if not (folder / "stage.json").is_file():
        resumed = ["--ckpt_path=last"] if (folder / "checkpoints/last.ckpt").is_file() else []
        tell(f"{name} of {run}")
        train([name, "fit", "--config", str(config), "--run", str(run), *options, *resumed], run / f"{name}.log")
    return float(json.loads((folder / "stage.json").read_text(encoding="utf-8"))["seconds"])


def run_once(words: Sequence[str], result: Path, made_from: Mapping[str, Any], log: Path, run: Run) -> None:
    """Runs a command unless its result is there and was made by the same words from the same things.

    Args:
        words: of the command line.
        result: file that the command writes last.
        made_from: what it is made from, as JSON, such as digests of files.
        log: file of its output.
        run: runs the command.

    Raises:
        UserError: it failed.
        KeyboardInterrupt: it was interrupted.
    """
    note, wanted = log.with_suffix(".made_from.json"), {"words": [*words], **made_from}
    if result.is_file() and note.is_file() and json.loads(note.read_text(encoding="utf-8")) == wanted:
        return
    run(words, log)
    write_text(note, json_text(wanted), "--run")


def values_of(config: Path) -> list[str]:
    """Returns the values that a YAML file gives, as texts, at any depth."""
    found, rest = [], [yaml.safe_load(config.read_text(encoding="utf-8"))]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            rest.extend(value.values())
        else:
            found.append(str(value))
    return found


def named_files(values: Sequence[str], root: Path = Path()) -> dict[str, str]:
    """Returns files and stages that values of options name, with digests of their content.

    Args:
        values: of options; several paths may be separated by commas, each with a weight after an @.
        root: folder that relative paths start from.
    """
    places = [Path(part) for value in values for part in value.split(",") if part]
    places += [Path(place.as_posix().rpartition("@")[0]) for place in places if "@" in place.name]
    known = [place for place in places if (root / place).is_file() or (root / place / "stage.json").is_file()]
    return {str(place): digest(root / place) for place in known}
