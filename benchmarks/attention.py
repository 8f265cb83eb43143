"""Attention on a CPU: PyTorch's fused sdpa against two batched products, by row width and dtype.

`python -m benchmarks.attention` writes benchmarks/results/attention.json: milliseconds of a layer of the embedded base
(9 heads of 64, 3 of them for keys) over eight rows, forward, and forward with backward. It is where
`short_attention.SHORT` comes from.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.harness import Command, Found, Result, in_turns, medians, say
from benchmarks.training import DTYPES
from lit_instruct.fast.short_attention import attend_by_products

WIDTHS = (32, 64, 128, 256, 512)


def measure_at(width: int, dtype: torch.dtype, rows: int, repetitions: int) -> dict[str, dict[str, float]]:
    """Returns milliseconds of both ways, forward and with backward; they take turns."""
    shapes = ((rows, width, heads, 64) for heads in (9, 3, 3))
    parts = [torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for shape in shapes]
    mask = torch.ones(width, width, dtype=torch.bool).tril()
    ways: dict[str, Callable[[], Tensor]] = {
        "sdpa": lambda: scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True),
        "products": lambda: attend_by_products(parts[0] * 64**-0.5, parts[1], parts[2], mask),
    }
    runs = in_turns({way: partial(_timed, attend) for way, attend in ways.items()}, repetitions)
    return {way: medians(found, digits=3, scale=1e3) for way, found in runs.items()}


def _timed(attend: Callable[[], Tensor]) -> Result:
    began = time.perf_counter()
    y = attend()
    forward = time.perf_counter() - began
    y.sum().backward()
    return {"forward": forward, "both": time.perf_counter() - began}


def measure(options: Namespace) -> Found:
    """Measures every width and dtype."""
    found = [
        {"width": width, "dtype": name, "milliseconds": measure_at(width, dtype, options.rows, options.repetitions)}
        for width in WIDTHS
        for name, dtype in DTYPES.items()
    ]
    say(*found, sep="\n")
    return Found({"rows": options.rows, "cases": found}, "attention.json")


OPTIONS = {"--rows": {"type": int, "default": 8, "help": "rows in the batch"}}
main = Command("benchmarks.attention", __doc__, measure, OPTIONS, repetitions=9)

if __name__ == "__main__":
    raise SystemExit(main())
