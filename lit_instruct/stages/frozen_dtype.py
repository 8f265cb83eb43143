"""The dtype of a stage's frozen weights: chosen once, recorded for resuming, and that of rank 0 on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_info

from lit_instruct.errors import UserError
from lit_instruct.handover import chosen_dtype, recorded_dtype
from lit_instruct.models.dtype import DTYPES, ChosenDtype, DtypeName, KnownDtype, named
from lit_instruct.models.loading import Source, find_source
from lit_instruct.stages.checkpoint import read_checkpoint

DTYPE = "dtype"
"""Its key in a checkpoint."""


class FrozenDtype:
    """Chooses the dtype of a stage's frozen weights.

    Args:
        name: as given by the user.
    """

    def __init__(self, name: DtypeName) -> None:
        self.name: DtypeName = name
        self.made: ChosenDtype | None = None
        self.agreed = False

    def choose(self, source: Source, device: torch.device, checkpoint: str | None = None) -> ChosenDtype:
        """Returns the choice, and says in one line what "auto" chose.

        Args:
            source: the model that the stage starts from.
            device: where its weights will be.
            checkpoint: that is resumed, whose dtype "auto" takes.

        Raises:
            UserError: there is no such model, or the checkpoint is damaged.
        """
        if self.made is None:
            self.made = self._resumed(device, checkpoint) or chosen_dtype(self.name, device, source)
            if self.name == "auto":
                rank_zero_info(self.made.line())
        return self.made

    def agree(self, source: Source, strategy: Strategy) -> ChosenDtype:
        """Returns the choice of rank 0; every rank has to call it once its processes are connected."""
        if not self.agreed:
            made = self.choose(source, strategy.root_device) if strategy.is_global_zero else self.made
            self.made, self.agreed = strategy.broadcast(made), True
        assert self.made is not None
        return self.made

    @property
    def known(self) -> DtypeName:
        """The dtype that was chosen, by name; as the user gave it before that."""
        return self.made.name if self.made is not None else self.name

    def record(self) -> dict[str, str] | None:
        """Returns the choice as stage.json has it."""
        return asdict(self.made) if self.made is not None else None

    def check(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuses to resume a training in another dtype than it had, unless the user chose that.

        Raises:
            UserError: "auto" chose another one, because the machine is another.
        """
        theirs = dtype_of(checkpoint)
        if self.name == "auto" and self.made is not None and theirs not in (None, self.made.name):
            raise UserError(
                f"--model.dtype=auto: {self.made.name} here, and the checkpoint has {theirs}; give --model.dtype="
                f"{theirs} (dtype={theirs!r} of the module) to resume it exactly, or --model.dtype={self.made.name}"
            )

    def _resumed(self, device: torch.device, checkpoint: str | None) -> ChosenDtype | None:
        if self.name != "auto" or checkpoint is None or not Path(checkpoint).is_file():
            return None
        saved = dtype_of(read_checkpoint(checkpoint, "cpu", mmap=True))
        return named(saved, "that of the checkpoint", device) if saved is not None else None


def dtype_of(checkpoint: Mapping[str, Any]) -> KnownDtype | None:
    """Returns the dtype of a checkpoint's frozen weights; None if it does not say."""
    return next((name for name in DTYPES if checkpoint.get(DTYPE) == name), None)


def with_recorded_dtype(options: Mapping[str, Any], device: str, base: str) -> dict[str, Any]:
    """Returns the options of a plan for a CPU with the dtype that "auto" takes from the stage that made its base."""
    if device != "cpu":
        return dict(options)
    given = options["model.dtype"]
    recorded = recorded_dtype(given, torch.device("cpu"), find_source(base))
    return dict(options) | {"model.dtype": recorded or given}
