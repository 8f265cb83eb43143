"""Choices made for CPUs: how many logits are widened to float32 at a time, and whether freed memory is kept.

`python -m benchmarks.cpu` writes benchmarks/results/cpu.json: milliseconds of token log-probabilities, forward and with
backward, by `heads.CACHED_TOKENS`; of passes through the embedded base with LoRA on every layer, on rows as long as
PPO's, with the memory of freed tensors kept (`host_memory`) and returned; and of a thousand products in bfloat16 of
different shapes, with few and with many of them kept compiled. Each side runs in a process of its own; they take turns.
"""

from __future__ import annotations

import json
import resource
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.harness import Command, Found, Result, in_turns, medians, resident_bytes, run_side, say, take_turns
from benchmarks.training import SEED, dtype
from lit_instruct.fast.host_memory import keep_few_products, keep_freed_memory
from lit_instruct.models import heads
from lit_instruct.models.assemble import policy_network
from lit_instruct.models.embedded import NAME
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions

MODULE = "benchmarks.cpu"
BLOCKS = (4, 16, 64, 128)
TOKENS, HIDDEN, VOCABULARY = 512, 576, 49_152
SHAPES = ((10, 57), (5, 165))
"""Rows and their length: of responses of 24 and of 128 tokens to the demo's prompts."""
SIDES = ("kept", "freed")
COMPILED = ("few", "many")
LENGTHS = range(64, 1064)


def log_probs(repetitions: int) -> dict[int, dict[str, float]]:
    """Returns milliseconds by CACHED_TOKENS; the sizes take turns."""
    torch.manual_seed(SEED)
    hidden = torch.randn(TOKENS, HIDDEN, dtype=dtype()).requires_grad_()
    weight, tokens = torch.randn(VOCABULARY, HIDDEN, dtype=dtype()) / 24, torch.randint(VOCABULARY, (TOKENS,))

    def run(size: int) -> Result:
        heads.CACHED_TOKENS = size
        return _timed(lambda: heads.token_log_probs(hidden, heads.OutputHead(weight), tokens).log_probs)

    chosen = heads.CACHED_TOKENS
    runs = in_turns({size: partial(run, size) for size in BLOCKS}, repetitions)
    heads.CACHED_TOKENS = chosen
    return {size: medians(found, digits=1, scale=1e3) for size, found in runs.items()}


def passes(side: str, repetitions: int) -> dict[str, Any]:
    """Returns milliseconds of passes through the embedded base, and how many page faults they took, by shape."""
    if side == "kept":
        assert keep_freed_memory(torch.device("cpu"))
    network = policy_network(find_source(NAME), LoraOptions(), dtype())
    decoder: Any = network.get_base_model().model

    def run(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype(), enabled=dtype() == torch.bfloat16):
            return decoder(input_ids=ids, use_cache=False).last_hidden_state

    found = {}
    for rows, length in SHAPES:
        ids = torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(SEED))
        _timed(partial(run, ids))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        runs = [_timed(partial(run, ids)) for _ in range(repetitions)]
        faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // repetitions
        found[f"{rows}x{length}"] = medians(runs, digits=1, scale=1e3) | {"page_faults": faults}
    return found


def products(side: str) -> dict[str, float]:
    """Returns milliseconds of products of HIDDEN by HIDDEN with all LENGTHS of rows, and megabytes held since.

    `side` is one of COMPILED; "many" is the libraries' default.
    """
    if side == "few":
        keep_few_products(torch.device("cpu"))
    weight, rows = (torch.randn(size, HIDDEN, dtype=torch.bfloat16) for size in (HIDDEN, LENGTHS.stop))
    _ = rows @ weight.T
    before, began = resident_bytes(), time.perf_counter()
    for length in LENGTHS:
        _ = rows[:length] @ weight.T
    once, grown = time.perf_counter(), resident_bytes() - before
    for length in LENGTHS:
        _ = rows[:length] @ weight.T
    again = time.perf_counter() - once
    share = 1e3 / len(LENGTHS)
    return {
        "first_ms": round(share * (once - began), 3),
        "again_ms": round(share * again, 3),
        "grown_mb": round(grown / 1e6, 1),
    }


def _timed(work: Callable[[], torch.Tensor]) -> dict[str, float]:
    """Seconds of a forward pass, and of a second one with its backward pass."""
    began = time.perf_counter()
    with torch.no_grad():
        work()
    forward = time.perf_counter()
    work().float().sum().backward()
    return {"forward": forward - began, "both": time.perf_counter() - forward}


def freed_memory(repetitions: int, passes_of_each: int) -> dict[str, Any]:
    """Returns shape -> side -> medians over processes, and what of the time is left where memory is kept."""
    works = {"passes": {side: {"repetitions": passes_of_each} for side in SIDES}}
    runs = take_turns(works, repetitions, partial(run_side, MODULE))["passes"]
    found: dict[str, Any] = {}
    for shape in (f"{rows}x{length}" for rows, length in SHAPES):
        sides = {side: medians([run[shape] for run in runs[side]]) for side in SIDES}
        shares = {name: round(sides["kept"][name] / sides["freed"][name], 3) for name in ("forward", "both")}
        found[shape] = {"milliseconds": sides, "kept / freed": shares}
    return found


def compiled_products(repetitions: int) -> dict[str, dict[str, float]]:
    """Returns side -> medians over processes."""
    works: dict[str, dict[str, Any]] = {"products": {side: {} for side in COMPILED}}
    runs = take_turns(works, repetitions, partial(run_side, MODULE))["products"]
    return {side: medians(found) for side, found in runs.items()}


def measure(options: Namespace) -> Found:
    """Measures all three choices."""
    found = {
        "log_probs_ms_by_cached_tokens": log_probs(options.passes),
        "freed_memory": freed_memory(options.repetitions, options.passes),
        "compiled_products": compiled_products(options.repetitions),
    }
    say(json.dumps(found, indent=1))
    return Found(found, "cpu.json")


kept, freed = (partial(passes, side) for side in SIDES)
few, many = (partial(products, side) for side in COMPILED)
"""Sides, for `run_side`."""
OPTIONS = {"--passes": {"type": int, "default": 9, "help": "passes in each process, and of the log-probabilities"}}
main = Command(MODULE, __doc__, measure, OPTIONS, repetitions=3)

if __name__ == "__main__":
    raise SystemExit(main())
