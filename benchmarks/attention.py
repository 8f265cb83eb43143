"""Attention on a CPU: PyTorch's fused sdpa against two batched products, by row width and dtype.

`python -m benchmarks.attention` writes benchmarks/results/attention.json: milliseconds of a layer of the embedded base
(9 heads of 64, 3 of them for keys) over eight rows, forward, and forward with backward. It is where
`short_attention.SHORT` comes from.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.environment import write_results
from lit_instruct.fast.short_attention import _attend

WIDTHS = (32, 64, 128, 256, 512)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def measure(width: int, dtype: torch.dtype, rows: int, repetitions: int) -> dict[str, dict[str, float]]:
    """Returns milliseconds of both ways, forward and with backward; they take turns.

    Args:
        width: tokens of a row.
        dtype: of query, key and value.
        rows: side by side.
        repetitions: of which the median is taken.
    """
    shapes = ((rows, width, heads, 64) for heads in (9, 3, 3))
    parts = [torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for shape in shapes]
    mask = torch.ones(width, width, dtype=torch.bool).tril()
    ways: dict[str, Callable[[], Tensor]] = {
        "sdpa": lambda: scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True),
        "products": lambda: _attend(parts[0] * 64**-0.5, parts[1], parts[2], mask),
    }
    seconds: dict[str, dict[str, list[float]]] = {way: {"forward": [], "both": []} for way in ways}
    for _ in range(repetitions + 1):  # the first gets ready
        for way, attend in ways.items():
            began = time.perf_counter()
            y = attend()
            seconds[way]["forward"].append(time.perf_counter() - began)
            y.sum().backward()
            seconds[way]["both"].append(time.perf_counter() - began)
    return {
        way: {name: round(1e3 * median(runs[1:]), 3) for name, runs in found.items()} for way, found in seconds.items()
    }


def main() -> int:
    """Measures and writes the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--out", default="attention.json", help="file; a bare name goes into benchmarks/results")
    options = parser.parse_args()
    found: list[dict[str, Any]] = [
        {"width": width, "dtype": name, "milliseconds": measure(width, dtype, options.rows, options.repetitions)}
        for width in WIDTHS
        for name, dtype in DTYPES.items()
    ]
    for case in found:
        print(case)
    print(write_results(options.out, {"rows": options.rows, "cases": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
