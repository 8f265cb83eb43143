"""A plan as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from lit_instruct.planning.memory import PARTS
from lit_instruct.planning.plan import Plan
from lit_instruct.planning.work import trains_on

GIB = 2**30
NAMES = {"merged": "merged weights of the rollout", "kv_cache": "KV cache of the rollout"}
"""Part -> its name in the table, if the two differ."""


def gib(size: float) -> str:
    """Returns bytes in GiB (2^30 bytes), the unit in which cards are sold."""
    return f"{size / GIB:.1f}" if size >= GIB / 20 else f"{size / GIB:.2f}"


def as_text(plan: Plan) -> str:
    """Returns a plan as text for people."""
    return "\n".join([_opening(plan), memory_table(plan), *_verdict(plan), "", _disk(plan), _time(plan)])


def _opening(plan: Plan) -> str:
    work = plan.work
    processes = f", on each of {work.processes} processes" if work.processes > 1 else ""
    return f"{plan.stage}: {work.model.name} ({work.model.parameters / 1e9:.2f} billion), {trains_on(work)}{processes}"


def memory_table(plan: Plan) -> str:
    """Returns memory by part and phase as a table of text, in GiB."""
    phases, peak = plan.memory.phases, plan.memory.peak_phase
    table = Table(show_edge=False, pad_edge=False, show_footer=True)
    table.add_column("GiB", footer="total")
    for phase, parts in phases.items():
        name = f"{phase} (peak)" if phase == peak else phase
        table.add_column(name, footer=gib(sum(parts.values())), justify="right")
    for part in PARTS:
        if any(parts[part] for parts in phases.values()):
            table.add_row(
                NAMES.get(part, part), *(gib(parts[part]) if parts[part] else "" for parts in phases.values())
            )
    text = StringIO()
    Console(file=text, width=100, no_color=True).print(table)
    return text.getvalue().rstrip()


def _verdict(plan: Plan) -> list[str]:
    where = "card" if plan.device == "cuda" else "machine"
    if plan.limit is None:
        return ["", f"The memory of this {where} is unknown."]
    room, peak = f"the {gib(plan.limit)} GiB of the {where}", f"the peak is {gib(plan.memory.peak)} GiB"
    if not plan.fits:
        return ["", f"It does not fit: {peak}, more than {room}.", *_advice(plan, "It would fit with")]
    return ["", f"It fits: {peak}, within {room}.", *_advice(plan, "There is room for")]


def _advice(plan: Plan, opening: str) -> list[str]:
    if not plan.advice:
        return []
    if plan.limit is not None and all(advice.peak > plan.limit for advice in plan.advice):
        opening = "No two options make it fit; use a smaller --model.base. These save the most"
    return [f"{opening}:", *(f"  {advice.words}  ({gib(advice.peak)} GiB)" for advice in plan.advice)]


def _disk(plan: Plan) -> str:
    parts = ", ".join(f"{name} {gib(size)}" for name, size in plan.disk.items() if size)
    return f"Disk: {gib(sum(plan.disk.values()))} GiB ({parts})"


def _time(plan: Plan) -> str:
    if plan.tokens is None:
        return "Time: unknown without the number of rows; give --rows=N"
    count = f"at most {plan.tokens / 1e6:.2f} million tokens"
    if plan.rate is None:
        return f"Time: {count}; give --tokens-per-second=N to estimate the time (it was not measured for this recipe)"
    speed = f"{plan.rate.tokens_per_second:.0f} tokens/s ({plan.rate.origin})"
    return f"Time: {_duration(plan.seconds or 0)} for {count} at {speed}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def as_dict(plan: Plan) -> dict[str, Any]:
    """Returns a plan for JSON; sizes are in bytes."""
    work = plan.work
    return {
        "stage": plan.stage,
        "model": {"name": work.model.name, "parameters": work.model.parameters, "trained": trains_on(work)},
        "device": plan.device,
        "processes": work.processes,
        "memory": plan.memory.phases,
        "peak": {"phase": plan.memory.peak_phase, "bytes": plan.memory.peak, "allocated": plan.memory.allocated},
        "limit": plan.limit,
        "fits": plan.fits,
        "advice": [{"options": advice.changes, "peak": advice.peak} for advice in plan.advice],
        "disk": plan.disk,
        "tokens": plan.tokens,
        "seconds": plan.seconds,
        "rate": asdict(plan.rate) if plan.rate else None,
    }
