"""Trainings of the findings: stages through the command line, each in a process of its own, from the checkout."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from evidence import ROOT
from lit_instruct.running import own_process
from lit_instruct.running.own_process import Run


def run_stage(
    name: Literal["sft", "rm", "ppo"], config: Path, run: Path, options: Sequence[str] = (), train: Run | None = None
) -> float:
    """Trains a stage of a finding as `own_process.run_stage` does, and returns the seconds that it took.

    Args:
        name: of the stage.
        config: YAML file.
        run: run folder.
        options: of the command line.
        train: runs the command; None runs it in a process of its own.

    Raises:
        UserError: it failed; the message has the end of its output.
        KeyboardInterrupt: it was interrupted; the next call resumes it.
    """
    runs = train or partial(own_process.in_own_process, folder=ROOT)
    return own_process.run_stage(name, config, run, options, runs, ROOT, _tell)


def _tell(line: str) -> None:
    print(f"evidence: {line}", flush=True)
