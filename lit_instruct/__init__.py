"""lit-instruct: the InstructGPT pipeline (SFT, reward model, PPO) as LightningModules on TRL."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_instruct.commands.score import score
    from lit_instruct.stages.ppo import PPOModule
    from lit_instruct.stages.reward import RewardModule
    from lit_instruct.stages.sft import SFTModule

__all__ = ["PPOModule", "RewardModule", "SFTModule", "score"]
_WHERE = {
    "SFTModule": "lit_instruct.stages.sft",
    "RewardModule": "lit_instruct.stages.reward",
    "PPOModule": "lit_instruct.stages.ppo",
    "score": "lit_instruct.commands.score",
}
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports optional kernels when PEFT imports it


def __getattr__(name: str) -> Any:
    """Imports what is asked for: `lit-instruct --help` must not wait for PyTorch."""
    if name == "__version__":
        return version("lit-instruct")
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
