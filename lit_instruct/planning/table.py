"""A plan as text and as JSON."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from lit_instruct.planning.memory import NAMES, PARTS
from lit_instruct.planning.plan import Plan
from lit_instruct.planning.work import trains_on

GIB = 2**30


def gib(size: float) -> str:
    """Returns bytes in units of 2^30, by which cards are sold."""
    return f"{size / GIB:.1f}" if size >= GIB / 20 else f"{size / GIB:.2f}"


def as_text(plan: Plan) -> str:
    """Returns a plan as a person reads it."""
    return "\n".join([_opening(plan), memory_table(plan), *_verdict(plan), "", _disk(plan), _time(plan)])


def _opening(plan: Plan) -> str:
    work = plan.work
    processes = f", on each of {work.processes} processes" if work.processes > 1 else ""
    return f"{plan.stage}: {work.model.name} ({work.model.parameters / 1e9:.2f} billion), {trains_on(work)}{processes}"


def memory_table(plan: Plan) -> str:
    """Returns memory by part and phase as a table of text, in GiB."""
    phases, peak = plan.memory.phases, plan.memory.peak_phase
    table = Table(show_edge=False, pad_edge=False, show_footer=True)
    table.add_column("GiB", footer="together")
    for phase, parts in phases.items():
        name = f"{phase} (peak)" if phase == peak else phase
        table.add_column(name, footer=gib(sum(parts.values())), justify="right")
    for part in PARTS:
        if any(parts[part] for parts in phases.values()):
            table.add_row(NAMES[part], *(gib(parts[part]) if parts[part] else "" for parts in phases.values()))
    text = StringIO()
    Console(file=text, width=100, no_color=True).print(table)
    return text.getvalue().rstrip()


def _verdict(plan: Plan) -> list[str]:
    where = "card" if plan.device == "cuda" else "machine"
    if plan.limit is None:
        return ["", f"How much memory this {where} has is not known."]
    room = f"the {gib(plan.limit)} GiB of the {where}"
    peak = gib(plan.memory.peak)
    if not plan.fits:
        return ["", f"It does not fit: {peak} GiB at the peak, more than {room}.", *_advice(plan, "It would fit with")]
    return ["", f"It fits: {peak} GiB at the peak, within {room}.", *_advice(plan, "There is room for")]


def _advice(plan: Plan, opening: str) -> list[str]:
    if not plan.advice:
        return []
    if plan.limit is not None and all(advice.peak > plan.limit for advice in plan.advice):
        opening = "No two options make it fit; take a smaller --model.base. Most is saved by"
    return [f"{opening}:", *(f"  {advice.words}  ({gib(advice.peak)} GiB)" for advice in plan.advice)]


def _disk(plan: Plan) -> str:
    parts = ", ".join(f"{name} {gib(size)}" for name, size in plan.disk.items() if size)
    return f"Disk: {gib(sum(plan.disk.values()))} GiB ({parts})"


def _time(plan: Plan) -> str:
    if plan.tokens is None:
        return "Time: not known without the rows of the data; give --rows=N"
    count = f"at most {plan.tokens / 1e6:.2f} million tokens"
    if plan.rate is None:
        return f"Time: {count}; give --tokens-per-second=N for the time they take (it is not measured for this recipe)"
    speed = f"{plan.rate.tokens_per_second:.0f} tokens/s ({plan.rate.origin})"
    return f"Time: {_duration(plan.seconds or 0)} for {count} at {speed}"


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def as_dict(plan: Plan) -> dict[str, Any]:
    """Returns a plan as JSON holds it; sizes in bytes."""
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
        "rate": {"tokens_per_second": plan.rate.tokens_per_second, "origin": plan.rate.origin} if plan.rate else None,
    }
