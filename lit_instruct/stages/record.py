"""What stage.json says of a stage's result."""

from __future__ import annotations

from typing import Any

import torch

from lit_instruct.handover import Stage, read_stage_of
from lit_instruct.machine import peak_memory_gb
from lit_instruct.models.base_names import lasting_name
from lit_instruct.stages.given import data_report


def stage_record(module: Any, metrics: dict[str, float]) -> Stage:
    """Returns the content of stage.json.

    Args:
        module: of the stage, trained.
        metrics: final figures.
    """
    parent = read_stage_of(module.source)
    revision = getattr(module.result().config, "_commit_hash", None)  # of the hub
    name, commit = lasting_name(module.source_name)
    base = parent.base if parent is not None else {"source": name, "revision": commit or revision}
    return Stage(
        stage=module.stage,
        base=base,
        parents=module.parents,
        prompt_format=module.prompter.describe(),
        metrics=metrics,
        seed=module.seed,
        seconds=round(module.seconds, 2),
        peak_memory_gb=peak_memory_gb(),
        base_precision=base_precision(module),
        data=data_report(module.data),
        options=module.options_record(),
        dtype=module.dtype_choice.record(),
        ending=module.ending(),
    )


def base_precision(module: Any) -> str:
    """Returns the precision of the frozen base (8bit, 4bit or a dtype); float32 where all weights are trained."""
    if module.quantize != "none":
        return str(module.quantize)
    return str(module.frozen_dtype if module.lora is not None else torch.float32).removeprefix("torch.")
