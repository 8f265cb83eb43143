"""The plan of a stage: memory by part, whether it fits, what to change, disk and time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lit_instruct.planning.advice import Advice, Changes, to_fit, to_use_more
from lit_instruct.planning.memory import TRAINED, Memory, memory_of, policy_sizes, trained_sizes
from lit_instruct.planning.rates import Rate
from lit_instruct.planning.weights import optimizer_bytes
from lit_instruct.planning.work import Options, StageName, Work, read_work, responses_of

STORED = 2
"""Bytes per number of a model on the hub."""
TOKEN = 8
"""Bytes per token in the cache of tokenised data: id and label."""
EPOCHS = 1000
"""Lightning's default number of epochs."""


@dataclass(frozen=True)
class Plan:
    """What a stage will need."""

    stage: StageName
    work: Work
    memory: Memory
    device: Literal["cpu", "cuda"]
    limit: float | None
    """Bytes that the device has; None if unknown."""
    advice: list[Advice]
    """Changes that would make it fit or, if it fits, use the device better."""
    disk: dict[str, int]
    """Bytes written, by purpose."""
    tokens: int | None
    """Most tokens that the training reads; None if the number of rows is unknown."""
    rate: Rate | None

    @property
    def fits(self) -> bool | None:
        """Whether the peak is within the device's memory; None if that is unknown."""
        return self.memory.peak <= self.limit if self.limit is not None else None

    @property
    def seconds(self) -> float | None:
        """Longest time of the training; None if tokens or speed are unknown."""
        if self.tokens is None or self.rate is None:
            return None
        return self.tokens / self.rate.tokens_per_second / self.work.processes


def make_plan(
    stage: StageName,
    options: Options,
    base: str,
    device: Literal["cpu", "cuda"],
    limit: float | None,
    rate: Rate | None = None,
    rows: int | None = None,
) -> Plan:
    """Returns the plan of a stage.

    Args:
        stage: sft, rm or ppo.
        options: of model, data and trainer, by dotted name.
        base: the model that the stage starts from: a named shape, hub id or folder.
        device: where it will run.
        limit: bytes that the device has; None if unknown.
        rate: training speed; None if unknown.
        rows: number of training rows; None counts those of a local file.

    Raises:
        UserError: a model is unknown.
    """

    def evaluate(changes: Changes) -> Memory:
        return memory_of(read_work(stage, {**options, **changes}, device, base))

    work = read_work(stage, options, device, base)
    memory = memory_of(work)
    advice: list[Advice] = []
    if limit is not None and memory.peak > limit:
        advice = to_fit(stage, options, device, limit, evaluate)
    elif limit is not None:
        advice = to_use_more(stage, options, limit, evaluate)
    rows = rows if rows is not None else rows_of(str(options["data.path"]), options.get("data.limit"))
    tokens = tokens_of(work, options, rows)
    return Plan(stage, work, memory, device, limit, advice, disk_of(work, base, rows), tokens, rate)


def disk_of(work: Work, base: str, rows: int | None) -> dict[str, int]:
    """Returns the bytes that a stage writes, by purpose.

    Args:
        work: of the stage.
        base: its model, downloaded if it is not a folder.
        rows: number of training rows; None leaves their cache out.
    """
    trained = trained_sizes(work)
    checkpoint = TRAINED * sum(trained) + optimizer_bytes(work.optimizer, trained)
    fetched = 0 if Path(base).exists() else STORED * work.model.parameters
    return {
        "base model": fetched,
        "checkpoints (best and last)": 2 * checkpoint,
        "result": TRAINED * sum(policy_sizes(work)),
        "tokenised data": TOKEN * work.length * (rows or 0),
    }


def tokens_of(work: Work, options: Options, rows: int | None) -> int | None:
    """Returns the tokens of a training if every row had the maximum length; None if `rows` is needed and unknown."""
    if work.stage == "ppo":
        return int(options["model.iterations"]) * responses_of(options) * work.length
    steps = int(options.get("trainer.max_steps", -1))
    responses = work.tokens * work.passes // work.length  # sequences per step
    if steps > 0:
        return steps * responses * work.length * work.processes
    if rows is None:
        return None
    epochs = options.get("trainer.max_epochs")
    per_row = work.length * (max(1, responses // int(options["data.batch_size"])) if work.stage == "rm" else 1)
    return rows * per_row * int(epochs if epochs is not None else EPOCHS)


def rows_of(path: str, limit: int | None) -> int | None:
    """Returns the number of rows in a local JSON lines file, at most `limit`; `limit` for anything else."""
    file = Path(path)
    if file.suffix != ".jsonl" or not file.is_file():
        return limit
    with file.open("rb") as lines:
        count = sum(1 for line in lines if line.strip())
    return count if limit is None else min(count, limit)
