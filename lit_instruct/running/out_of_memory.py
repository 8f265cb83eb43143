"""Messages about memory: before a stage whose plan does not fit, and after it ran out of memory."""

from __future__ import annotations

import logging
from pathlib import Path

from lit_instruct.errors import UserError, causes
from lit_instruct.machine import peak_bytes, this_device
from lit_instruct.planning.advice import Advice
from lit_instruct.planning.options import base_of
from lit_instruct.planning.plan import Plan, make_plan
from lit_instruct.planning.table import gib, memory_table
from lit_instruct.planning.work import Options, StageName
from lit_instruct.stages.frozen_dtype import with_recorded_dtype

log = logging.getLogger(__name__)
SAID = ("out of memory", "can't allocate memory", "not enough memory")
"""Messages of torch's allocators, CUDA and bitsandbytes."""
ENOUGH = 0.8
"""Fraction of the planned peak that advice aims for after a stage ran out of memory although its plan fitted."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Returns whether an exception or one of its causes says that a device is out of memory."""
    return any(
        isinstance(found, MemoryError)
        or (isinstance(found, RuntimeError) and any(text in str(found).lower() for text in SAID))
        for found in causes(error)
    )


def check_memory(stage: StageName, options: Options) -> None:
    """Refuses a stage that will not fit this machine's device, before anything is loaded.

    Raises:
        UserError: it will not fit; the message names what to change.
    """
    plan = _plan_here(stage, options)
    if plan is None or plan.fits is not False or plan.limit is None:
        return
    what = f"{stage}: it needs {gib(plan.memory.peak)} GiB and there are {gib(plan.limit)} GiB"
    raise UserError(f"{what}; {_advised(plan.advice)}, or train anyway with --check_memory=false")


def explain(stage: StageName, options: Options, last: Path | None) -> tuple[str, UserError]:
    """Returns the plan as a text table, and the error for a stage that ran out of memory.

    Args:
        stage: sft, rm or ppo.
        options: the stage's, by dotted name.
        last: the checkpoint to resume from; None if there is none yet.
    """
    plan = _plan_here(stage, options, share=ENOUGH)
    device = this_device(options.get("trainer.accelerator"))[0] if plan is None else plan.device
    peak = peak_bytes(device)
    measured = f" at {gib(peak)} GiB measured" if peak is not None else ""
    planned = f" ({gib(plan.memory.peak)} GiB planned)" if plan is not None else ""
    go_on = "; resume from the last checkpoint with --ckpt_path=last" if last is not None else ""
    advised = _advised(plan.advice if plan is not None else [])
    table = memory_table(plan) if plan is not None else ""
    return table, UserError(f"{stage}: out of memory{measured}{planned}; {advised}{go_on}")


def _plan_here(stage: StageName, options: Options, share: float = 1.0) -> Plan | None:
    """The plan for this machine, with advice for a fraction of its memory or peak; None if it cannot be made."""
    device, limit = this_device(options.get("trainer.accelerator"))
    try:
        base = base_of(options)
        options = with_recorded_dtype(options, device, base)
        plan = make_plan(stage, options, base, device, limit)
        if share == 1:
            return plan
        return make_plan(stage, options, base, device, share * min(plan.memory.peak, limit or 2**60))
    except Exception as error:  # a model that cannot be planned may still train, and a stage tells best what is missing
        log.debug("no plan: %s: %s", type(error).__name__, error)
    return None


def _advised(advice: list[Advice]) -> str:
    words = " or ".join(found.words for found in advice)
    return f"change {words}" if words else "use a smaller --model.base or shorter sequences"
