"""A user's own program, started by Lightning in two processes: trains a stage on plain loaders and saves it.

`python -m tests.lit_instruct.stages.python_user stage folder base devices [apart]`; with `apart` each process has other
rows.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from data_modules import PromptDataModule, PromptResponseDataModule, RankedComparisonDataModule
from lit_instruct import PPOModule, RewardModule, SFTModule
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.options import ObjectiveOptions, RewardOptions
from lit_instruct.rollouts.generate import SamplingOptions
from tests.lit_instruct.stages.helpers import comparisons, demonstrations, plain_trainer, prompts, write_rows

# The last batch has a row for each of two processes: a batch with fewer rows than processes is left out.
ROWS = {"sft": demonstrations(11), "rm": comparisons(10), "ppo": prompts(9)}
KINDS = {"sft": PromptResponseDataModule, "rm": RankedComparisonDataModule, "ppo": PromptDataModule}


def module_of(stage: str, base: str) -> Any:
    """The module of a stage."""
    lora = LoraOptions(top_layers=1)
    if stage != "ppo":
        return {"sft": SFTModule, "rm": RewardModule}[stage](base=base, lora=lora, dtype="float32")
    return PPOModule(
        base=base,
        lora=lora,
        dtype="float32",
        iterations=3,
        reward=RewardOptions(function=lambda pairs: [float(len(response)) for _, response in pairs]),
        objective=ObjectiveOptions(minibatches=2),
        sampling=SamplingOptions(max_new_tokens=4),
    )


def main(stage: str, folder: Path, base: str, devices: int, how: str) -> None:
    """Trains and saves."""
    rows, size = ROWS[stage], 4 // devices
    if how == "apart":
        rows = rows[int(os.environ.get("LOCAL_RANK", 0)) :]
    data: Any = DataLoader(rows, batch_size=size, shuffle=True)
    if how == "own":
        path = write_rows(folder / f"{os.environ.get('LOCAL_RANK', 0)}.jsonl", rows)
        data = KINDS[stage](str(path), validation_share=0.0, batch_size=4 if stage == "ppo" else size)
    module = module_of(stage, base)
    strategy = "ddp" if devices > 1 else "auto"
    plain_trainer(folder, devices=devices, strategy=strategy, max_epochs=2).fit(module, data)
    module.save(folder / stage)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), (sys.argv[5:] or [""])[0])
