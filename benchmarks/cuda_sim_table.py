"""The table of `make cuda-sim`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LOOP = "lit_instruct/rollouts/generate.py:generate"
HEAD = ("per training step", "waits for the device", "of them in the decode loop", "copies to the device")
HEAD += ("float32 products under autocast",)


def rows(found: Mapping[str, Any]) -> list[Sequence[object]]:
    """Returns the table's head, and a row for each case."""
    table: list[Sequence[object]] = [HEAD]
    for name, case in found["cases"].items():
        loop = sum(count for where, count in case["waits"].items() if where.endswith(LOOP))
        totals = [sum(case[kind].values()) for kind in ("waits", "copies", "float32 products")]
        waits, copies, wide = (f"{total:.0f}" for total in totals)
        table.append((name, waits, f"{loop:.0f}" if name.startswith("ppo") else "-", copies, wide))
    return table
