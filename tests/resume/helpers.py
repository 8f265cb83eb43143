"""Tiny PPO runs with every feature enabled, ways to stop them, and a comparison of two runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lit_instruct.stages.helpers import (
    CLOCK,
    FLOAT,
    QUICK,
    Files,
    KilledError,
    prompts,
    rows_of,
    run,
    weights,
    write_rows,
)

EVERYTHING = [
    "--model.reward.model=null",
    "--model.reward.function=tests.resume.rewards.letters",
    "--model.iterations=5",
    "--model.lora.top_layers=2",
    "--model.objective.minibatches=2",
    "--model.objective.inner_epochs=2",
    "--model.memory.micro_batch_size=2",
    "--model.sampling.max_new_tokens=4",
    "--model.optimizer.learning_rate=3e-3",
    "--model.optimizer.ema_decay=0.7",
    "--model.optimizer.warmup_iterations=4",
    "--model.kl.target=0.01",
    "--model.reward.normalize=true",
    "--model.pretraining.ptx_coef=0.5",
    "--data.pretraining_block=8",
    "--data.batch_size=4",
    "--trainer.val_check_interval=2",
    "--trainer.check_val_every_n_epoch=null",
]
"""Five iterations, three per epoch of the data; validated after the second and the fourth, and at the end."""
FULL = ["--model.lora=null"]


class Runs:
    """Starts runs on the same data.

    Args:
        folder: for the data.
        base: model folder.
    """

    def __init__(self, folder: Path, base: Path) -> None:
        files = Files(folder)
        self.words = [
            f"--model.base={base}",
            f"--data.path={write_rows(folder / 'twelve.jsonl', prompts(12))}",
            f"--data.validation_path={write_rows(folder / 'two.jsonl', prompts(2, 1))}",
            f"--data.pretraining_path={files.text}",
        ]

    def options(self, folder: Path, *more: str) -> list[str]:
        """The command line of a run that writes to a folder."""
        start = [word for word in EVERYTHING if not (word.startswith("--model.lora.") and FULL[0] in more)]
        return ["ppo", "fit", "--run", str(folder), *self.words, *start, *FLOAT, *QUICK, *more]

    def fit(self, folder: Path, *more: str) -> int:
        """Trains in this process and returns the exit code."""
        return run(*self.options(folder, *more))

    def resume(self, folder: Path, *more: str) -> int:
        """Resumes the run in a folder."""
        return self.fit(folder, "--ckpt_path=last", *more)


@contextmanager
def killed_at(place: Any, name: str, call: int, monkeypatch: pytest.MonkeyPatch, after: bool = False) -> Iterator[None]:
    """Kills the run inside the block when it calls a function.

    Args:
        place: the class or module of the function.
        name: of the function.
        call: number of the call, from 1.
        monkeypatch: the fixture of pytest.
        after: kills after the function has run, instead of before.
    """
    original, calls = getattr(place, name), 0

    def counted(*words: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise KilledError
        result = original(*words, **named)
        if calls == call:
            raise KilledError
        return result

    with monkeypatch.context() as patch:
        patch.setattr(place, name, counted)
        with pytest.raises(KilledError):
            yield


def checkpoint(folder: Path) -> dict[str, Any]:
    """The last checkpoint of a PPO run, opened with weights_only."""
    return torch.load(folder / "ppo/checkpoints/last.ckpt", weights_only=True)


def differences(one: Path, other: Path) -> list[str]:
    """Names what differs between two PPO runs: results, checkpoints, figures, samples; but not times and paths."""
    parts = "state_dict optimizer_states lr_schedulers global_step epoch ppo metrics logged_steps"
    first, second = ({part: checkpoint(folder)[part] for part in parts.split()} for folder in (one, other))
    first["result"], second["result"] = weights(one / "ppo"), weights(other / "ppo")
    first["rows"], second["rows"] = (rows_of(folder / "ppo/logs/metrics.csv") for folder in (one, other))
    first["samples"], second["samples"] = ((f / "ppo/logs/samples.jsonl").read_text() for f in (one, other))
    left, right = flat(first), flat(second)
    return [name for name in sorted(left.keys() | right.keys()) if not same(left.get(name), right.get(name))]


def same(one: Any, other: Any) -> bool:
    """Whether two values are exactly equal."""
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of a nested structure by their path, without measured times."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        return {} if name.endswith(CLOCK) else {name: value}
    return {inner: leaf for key, item in items for inner, leaf in flat(item, f"{name}.{key}").items()}
