"""Frozen weights packed once (`fast.packed`) against plain ones on a CPU: products, decoding steps, log-probabilities.

`python -m benchmarks.packed` writes benchmarks/results/packed.json: GFLOP/s of products with the matrices of the
embedded base by number of rows, and milliseconds of its decoding step and of token log-probabilities. Plain and packed
take turns; the fastest pass counts, in the thread's own time, so that other work on the machine disturbs little.
`same_bits` says whether both give the same numbers, `alone` whether a row's products in a batch are those of two rows.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.functional import linear

from benchmarks.harness import Command, Found, say
from benchmarks.training import SEED
from lit_instruct.fast.host_memory import spare_host_memory
from lit_instruct.fast.packed import packed, packed_linear
from lit_instruct.models import packed_weights
from lit_instruct.models.dtype import DTYPES, KnownDtype
from lit_instruct.models.embedded import NAME
from lit_instruct.models.heads import token_log_probs
from lit_instruct.models.logits import output_head
from lit_instruct.models.measured import own_clock
from lit_instruct.rollouts.decode import decoding
from lit_instruct.rollouts.text import TextGenerator

MATRICES = ((576, 576), (192, 576), (1536, 576), (576, 1536), (49_152, 576))
ROWS = (8, 13, 16, 32, 64, 128, 512)
DECODED = (8, 16, 32, 100, 256)
SCORED = (13, 32, 64, 128, 512)
STEPS, PROMPT = 4, 40


def fastest(ways: Mapping[str, Callable[[], object]], passes: int) -> dict[str, float]:
    """Returns the seconds of each way's fastest pass; they take turns, after one pass that does not count."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(passes + 1):
        for way, run in ways.items():
            began = own_clock()
            run()
            found[way].append(own_clock() - began)
    return {way: min(seconds[1:]) for way, seconds in found.items()}


def products(dtype: torch.dtype, passes: int) -> list[dict[str, Any]]:
    """Returns GFLOP/s by matrix and rows."""
    found = []
    for out, width in MATRICES:
        weight, rows = torch.randn(out, width).to(dtype), torch.randn(max(ROWS), width).to(dtype)
        blocks = packed(weight)
        for count in ROWS:
            x = rows[:count]
            ways = {"plain": partial(linear, x, weight), "packed": partial(packed_linear, x, blocks)}
            seconds = fastest(ways, passes if out < 10_000 else max(2, passes // 5))
            work = 2e-9 * count * out * width
            case = {"matrix": [width, out], "rows": count} | {w: round(work / s, 1) for w, s in seconds.items()}
            case["same_bits"] = torch.equal(linear(x, weight), packed_linear(x, blocks))
            case["alone"] = torch.equal(packed_linear(x[:2], blocks), packed_linear(x, blocks)[:2])
            say(case)
            found.append(case)
    return found


def whole_model(dtype: KnownDtype, passes: int) -> dict[str, list[dict[str, Any]]]:
    """Returns milliseconds of decoding steps and of log-probabilities under the embedded base, by rows."""
    with packing("plain"):
        plain = TextGenerator.from_source(NAME, dtype).model
    models = {"plain": plain, "packed": TextGenerator.from_source(NAME, dtype).model}
    return {
        "decoding_step": [_step(models, rows, passes) for rows in DECODED],
        "log_probs": [_log_probs(plain, rows, passes) for rows in SCORED],
    }


@torch.no_grad()
def _step(models: Mapping[str, Any], rows: int, passes: int) -> dict[str, Any]:
    ids = torch.randint(5, 40_000, (1, PROMPT)).expand(rows, -1)
    tokens, mask = torch.arange(rows), torch.ones(rows, PROMPT, dtype=torch.bool)
    running, logits = {}, {}
    for way, model in models.items():
        with packing(way):
            running[way] = decoding(model, STEPS * (passes + 1))
        running[way].start(ids, mask)

    def run(way: str) -> None:
        for _ in range(STEPS):
            logits[way] = running[way].step(tokens)

    seconds = fastest({way: partial(run, way) for way in models}, passes)
    return _compared(rows, {way: one / STEPS for way, one in seconds.items()}, logits["plain"], logits["packed"])


@torch.no_grad()
def _log_probs(model: Any, rows: int, passes: int) -> dict[str, Any]:
    heads = {}
    for way in ("plain", "packed"):
        with packing(way):
            heads[way] = output_head(model)
    weight = heads["plain"].weight
    hidden, tokens = torch.randn(rows, weight.shape[1]).to(weight.dtype), torch.arange(rows)
    found = {}

    def run(way: str) -> None:
        found[way] = token_log_probs(hidden, heads[way], tokens).log_probs

    seconds = fastest({way: partial(run, way) for way in ("plain", "packed")}, passes)
    return _compared(rows, seconds, found["plain"], found["packed"])


def packing(way: str) -> Any:
    """Within it, nothing is packed if `way` is plain."""
    pays = packed_weights.pays
    return patch.object(packed_weights, "pays", (lambda weight: False) if way == "plain" else pays)


def _compared(rows: int, seconds: Mapping[str, float], plain: torch.Tensor, other: torch.Tensor) -> dict[str, Any]:
    case = {"rows": rows} | {way: round(1e3 * one, 1) for way, one in seconds.items()}
    case["times_as_fast"] = round(seconds["plain"] / seconds["packed"], 2)
    case |= {"same_bits": torch.equal(plain, other), "largest_difference": float((plain - other).abs().max())}
    say(case)
    return case


def measure(options: Namespace) -> Found:
    """Measures everything in each dtype."""
    torch.manual_seed(SEED)
    spare_host_memory(torch.device("cpu"))
    found: dict[str, Any] = {}
    for name, dtype in DTYPES.items():
        with torch.no_grad():
            found[name] = {"products_gflops": products(dtype, options.passes)}
        found[name] |= whole_model(name, max(2, options.passes // 5))
    return Found(found, "packed.json")


OPTIONS = {"--passes": {"type": int, "default": 30, "help": "passes of a product; a fifth of it of long ones"}}
main = Command("benchmarks.packed", __doc__, measure, OPTIONS)

if __name__ == "__main__":
    raise SystemExit(main())
