"""Checkpoint files, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lit_instruct.errors import causes
from lit_instruct.files import replacing_file
from lit_instruct.stages.checkpoint import check_checkpoint, opening


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a scratch file beside its place and renames it, so a reader finds the old or the new one.

    Lightning writes to the system's temporary folder, from where a rename to another file system is a copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes one file, or raises OSError and leaves nothing of it."""
        if "://" in str(path):  # object stores write atomically
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing_file(path) as scratch, scratch.open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch hides the disk's error
            raise next((found for found in causes(error) if isinstance(found, OSError)), error) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint of tensors and plain values, whatever `weights_only` says: nothing is unpickled.

        Raises:
            UserError: the file is damaged, or is no checkpoint of a stage.
        """
        with opening(path):
            loaded = super().load_checkpoint(path, map_location, weights_only=True)
        return check_checkpoint(loaded, path)


def last_checkpoint(path: Path) -> Path | None:
    """Returns a checkpoint such as runs/demo/ppo/checkpoints/last.ckpt if it is there, or None."""
    return path if path.exists() else None
