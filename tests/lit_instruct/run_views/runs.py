"""Folders of runs as stages write them, without training."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NOW = 1_700_000_000.0
"""When somebody looks, in seconds since 1970."""
PPO_LOG = "step,ppo/iteration,ppo/reward,ppo/kl,ppo/response_length,ppo/eos_share,val/reward,val/kl\r\n"
PROMPT = "What is <b>2 + 2</b>?"


def iso(seconds: float) -> str:
    """A time as stage.json has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def progress(stage: str, done: int, total: int | None, **more: Any) -> dict[str, Any]:
    """progress.json of a training that began 100 s ago and wrote a second ago."""
    times = {"began": NOW - 100, "stepped": NOW - 5, "written": NOW - 1}
    found = {"stage": stage, "first": 0, "done": done, "total": total, "device": "cpu", "phase": "", "ended": None}
    return found | times | {"peak_memory_gb": 1.5} | more


def ppo_log(iterations: int, reward: float = 0.0) -> str:
    """metrics.csv of PPO with a validation every second iteration."""
    rows = []
    for i in range(1, iterations + 1):
        rows.append(f"{i - 1},{i},{reward + i / 4},{i / 2},10.5,0.75,,\r\n")
        if i % 2 == 0:
            rows.append(f"{i - 1},,,,,,{reward + i / 2},{i}\r\n")
    return PPO_LOG + "".join(rows)


def sft_log(steps: int, loss: float = 2.0) -> str:
    """metrics.csv of SFT with one validation at the end."""
    rows = [f"0,{i},0.5,0.001,{loss - i / 8},,\r\n" for i in range(steps)]
    head = "epoch,step,train/grad_norm,train/learning_rate,train/loss,val/loss,val/token_accuracy\r\n"
    return head + "".join(rows) + f"0,{steps - 1},,,,{loss - 1},0.5\r\n"


def sample(iteration: int, prompt: Any = PROMPT, **more: Any) -> dict[str, Any]:
    """A line of samples.jsonl."""
    row = {"iteration": iteration, "prompt": prompt, "response": f"Four, after {iteration}."}
    return row | {"reward": 0.5, "kl": 1.25, "length": 5} | more


def record(stage: str, metrics: dict[str, float], made: float = NOW - 10, **more: Any) -> dict[str, Any]:
    """stage.json, with what a view reads of it."""
    found = {"stage": stage, "metrics": metrics, "seconds": 95.0, "seed": 0, "peak_memory_gb": 1.25}
    return found | {"parents": {}, "options": None, "data": None, "created": iso(made)} | more


def write_stage(
    folder: Path,
    log: str | None = None,
    state: dict[str, Any] | None = None,
    made: dict[str, Any] | None = None,
    samples: list[dict[str, Any]] | None = None,
    lock: float | None = None,
) -> Path:
    """Writes the files of a stage.

    Args:
        folder: such as runs/x/ppo.
        log: metrics.csv, last written at NOW - 2.
        state: progress.json.
        made: stage.json.
        samples: lines of samples.jsonl.
        lock: when the lock file was made.
    """
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    if log is not None:
        (logs / "metrics.csv").write_bytes(log.encode())
        os.utime(logs / "metrics.csv", (NOW - 2, NOW - 2))
    if state is not None:
        (logs / "progress.json").write_text(json.dumps(state))
    if made is not None:
        (folder / "stage.json").write_text(json.dumps(made))
    if samples is not None:
        (logs / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    if lock is not None:
        (folder / ".lock").touch()
        os.utime(folder / ".lock", (lock, lock))
    return folder


def training_run(run: Path) -> Path:
    """A run whose SFT has finished and whose PPO trains."""
    write_stage(run / "sft", sft_log(8), progress("sft", 8, 8, ended="complete"), record("sft", {"val/loss": 1.0}))
    samples = [sample(2), sample(4), sample(4, [{"role": "user", "content": "Hi"}])]
    write_stage(run / "ppo", ppo_log(4), progress("ppo", 4, 10), samples=samples, lock=NOW - 110)
    return run
