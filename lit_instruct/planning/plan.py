"""The plan of a stage: memory by part, whether it fits, what to change, and disk and time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lit_instruct.planning.advice import Advice, Changes, to_fit, to_use_more
from lit_instruct.planning.memory import TRAINED, Memory, memory_of, policy_sizes, trained_sizes
from lit_instruct.planning.rates import Rate
from lit_instruct.planning.weights import optimizer_bytes
from lit_instruct.planning.work import Options, StageName, Work, read_work

STORED = 2
"""Bytes of a number in a model as hubs keep it."""
TOKEN = 8
"""Bytes of a token in the cache of tokenised data: its id and its label."""
EPOCHS = 1000
"""That Lightning trains where nothing ends it earlier."""


@dataclass(frozen=True)
class Plan:
    """What a stage will need."""

    stage: StageName
    work: Work
    memory: Memory
    device: Literal["cpu", "cuda"]
    limit: float | None
    """Bytes that the device has; None where they are not known."""
    advice: list[Advice]
    """Options that would make it fit, or where it fits, use the device better."""
    disk: dict[str, int]
    """What is written, in bytes."""
    tokens: int | None
    """Tokens of the training, at most; None where the rows of the data are not known."""
    rate: Rate | None

    @property
    def fits(self) -> bool | None:
        """Whether the peak is within the device's memory; None where that is not known."""
        return self.memory.peak <= self.limit if self.limit is not None else None

    @property
    def seconds(self) -> float | None:
        """Time of the training, at most; None where tokens or speed are not known."""
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
        base: what the stage starts from: a name, hub id or folder whose configuration can be had.
        device: where it will run.
        limit: bytes of that device; None where they are not known.
        rate: tokens a second; None where nobody knows.
        rows: of the training data, where they are no local file.

    Raises:
        UserError: a model is not known.
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
    """Returns the bytes that a stage writes, by what for.

    Args:
        work: of the stage.
        base: its model; one of the hub is fetched.
        rows: of the training data; None leaves their cache out.
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
    """Returns the tokens of a training if every row had its longest length; None where the rows are not known.

    Args:
        work: of the stage.
        options: of the stage.
        rows: of the training data.
    """
    if work.stage == "ppo":
        return int(options["model.iterations"]) * int(options["data.batch_size"]) * work.length
    steps = int(options.get("trainer.max_steps", -1))
    responses = work.tokens * work.passes // work.length  # sequences of a step
    if steps > 0:
        return steps * responses * work.length * work.processes
    if rows is None:
        return None
    epochs = options.get("trainer.max_epochs")
    of_a_row = work.length * (max(1, responses // int(options["data.batch_size"])) if work.stage == "rm" else 1)
    return rows * of_a_row * int(epochs if epochs is not None else EPOCHS)


def rows_of(path: str, limit: int | None) -> int | None:
    """Returns the lines of a local file of JSON lines, as far as they are used; None for anything else.

    Args:
        path: of the data.
        limit: most rows.
    """
    file = Path(path)
    if file.suffix != ".jsonl" or not file.is_file():
        return limit
    with file.open("rb") as lines:
        count = sum(1 for line in lines if line.strip())
    return count if limit is None else min(count, limit)
