"""Option changes that would make a stage fit its device, or use the device better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from lit_instruct.planning.memory import Memory
from lit_instruct.planning.work import Options, StageName, processes_of, responses_of

Changes = dict[str, Any]
"""Option by dotted name -> its new value."""
Evaluate = Callable[[Changes], Memory]
"""Returns the memory of the stage with some options changed."""
WANTED = 2
"""Suggestions to give."""
MERGE = "model.memory.merge_for_rollouts"
PACK = "model.memory.pack_output"
ACCUMULATED = "trainer.accumulate_grad_batches"


@dataclass(frozen=True)
class Advice:
    """Options to change together, and the peak in bytes that results."""

    changes: Changes
    peak: int

    @property
    def words(self) -> str:
        """The changes as command-line options."""
        return " ".join(f"--{name}={_word(value)}" for name, value in self.changes.items())


def to_fit(stage: StageName, options: Options, device: str, limit: float, evaluate: Evaluate) -> list[Advice]:
    """Returns the two cheapest changes that each make a stage fit, or pairs of changes if too few do.

    If nothing fits, it returns the two changes that save most.

    Args:
        stage: sft, rm or ppo.
        options: the current ones.
        device: cpu or cuda.
        limit: bytes that the device has.
        evaluate: memory with some options changed.
    """
    tried = [_smallest(changes, limit, evaluate) for changes in savings(stage, options, device) if changes]
    fitting = [advice for advice in tried if advice.peak <= limit]
    if len(fitting) < WANTED:
        alone = [advice.changes for advice in fitting]
        left = [advice.changes for advice in tried if advice.changes not in alone]
        pairs = (_advice(first | second, evaluate) for first, second in combinations(left, 2))
        fitting += [pair for pair in pairs if pair.peak <= limit][: WANTED - len(fitting)]
    return fitting[:WANTED] or sorted(tried, key=lambda advice: advice.peak)[:WANTED]


def to_use_more(stage: StageName, options: Options, limit: float, evaluate: Evaluate) -> list[Advice]:
    """Returns two changes that make a stage faster or more precise and still fit.

    Args:
        stage: sft, rm or ppo.
        options: the current ones.
        limit: bytes that the device has.
        evaluate: memory with some options changed.
    """
    tried = (_advice(changes, evaluate) for changes in spendings(stage, options))
    return [advice for advice in tried if advice.peak <= limit][:WANTED]


def savings(stage: StageName, options: Options, device: str) -> Iterator[list[Changes]]:
    """Yields changes that save memory, cheapest first; each list goes further and further with the same option."""
    if device == "cpu" and stage != "rm" and options[PACK]:
        yield [{PACK: False}]
    if not options["model.memory.gradient_checkpointing"]:
        yield [{"model.memory.gradient_checkpointing": True}]
    yield from _smaller_passes(stage, options)
    trains_adapters = any(name.startswith("model.lora.") for name in options)
    if stage == "ppo" and trains_adapters and options["model.quantize"] == "none" and options[MERGE]:
        yield [{MERGE: False}]
    if options["model.optimizer.name"] == "adamw" and not trains_adapters:
        yield [{"model.optimizer.name": "adamw_8bit"}]
    if not trains_adapters:
        yield [{"model.lora.r": 16}]
    elif options["model.quantize"] != "4bit":
        yield [{"model.quantize": "8bit"}, {"model.quantize": "4bit"}][options["model.quantize"] == "8bit" :]
    if stage == "ppo" and options["model.value.start"] != "policy_trunk":
        yield [{"model.value.start": "policy_trunk"}]
    if device == "cuda" and not options["model.memory.activation_offloading"]:
        yield [{"model.memory.activation_offloading": True}]
    length = "model.sampling.max_new_tokens" if stage == "ppo" else "data.max_length"
    yield [{length: size} for size in _halves(options[length], least=32)]


def spendings(stage: StageName, options: Options) -> Iterator[Changes]:
    """Yields changes that trade memory for speed or precision."""
    if options["model.memory.activation_offloading"]:
        yield {"model.memory.activation_offloading": False}
    if options["model.memory.gradient_checkpointing"]:
        yield {"model.memory.gradient_checkpointing": False}
    if options["model.quantize"] != "none":
        yield {"model.quantize": "none"}
    for name, most in _pass_sizes(stage, options):
        larger = min(2 * options[name], most)
        accumulated = int(options.get(ACCUMULATED) or 1)
        if stage == "sft":  # the same rows per step, in fewer passes
            if accumulated % 2 == 0:
                yield {name: larger, ACCUMULATED: accumulated // 2}
        elif larger > options[name]:
            yield {name: larger}


def _smaller_passes(stage: StageName, options: Options) -> Iterator[list[Changes]]:
    accumulated = int(options.get(ACCUMULATED) or 1)
    for name, _ in _pass_sizes(stage, options):
        sizes = _halves(options[name], least=512 if name == "model.max_tokens" else 1)
        if stage == "sft":
            yield [{name: size, ACCUMULATED: accumulated * options[name] // size} for size in sizes]
        else:
            yield [{name: size} for size in sizes]


def _pass_sizes(stage: StageName, options: Options) -> list[tuple[str, int]]:
    """Options that set how much is computed at once without changing the result, with the maximum of each."""
    if stage == "sft":
        return [("data.batch_size", 2**20)]
    if stage == "rm":
        return [("model.max_tokens", 2**17)]
    local = max(1, responses_of(options) // processes_of(options))
    minibatch = -(-local // options["model.objective.minibatches"])
    return [("model.memory.micro_batch_size", minibatch), ("model.memory.generation_batch_size", local)]


def _halves(size: int, least: int) -> list[int]:
    found = []
    while size // 2 >= least:
        size //= 2
        found.append(size)
    return found


def _smallest(steps: list[Changes], limit: float, evaluate: Evaluate) -> Advice:
    """The first of several steps (at least one) that fits, or the last."""
    for changes in steps:
        found = _advice(changes, evaluate)
        if found.peak <= limit:
            break
    return found


def _advice(changes: Changes, evaluate: Evaluate) -> Advice:
    return Advice(changes, evaluate(changes).peak)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
