"""Checkpoint files: written in one go, or not at all."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lit_instruct.errors import UserError
from lit_instruct.files import replacing_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: whoever looks finds the earlier one or the new one, whole.

    Lightning's own writes to the folder of temporary files, from where another file system is only reached by copying.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes one file.

        Raises:
            OSError: it cannot be written; nothing is left of it.
        """
        if "://" in str(path):  # not a disk: objects there appear whole
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing_file(path) as scratch, scratch.open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch hides what the disk said
            raise next(_disk_errors(error), error) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint, of tensors and plain values alone.

        Raises:
            UserError: the file is damaged, or holds anything else.
        """
        try:
            return super().load_checkpoint(path, map_location, True if weights_only is None else weights_only)
        except FileNotFoundError:
            raise
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            reason = str(error).splitlines()[0][:120] if str(error) else "it ends too early"
            raise UserError(
                f"--ckpt_path: {path} is damaged or no checkpoint ({reason}); give another one, or train anew"
            ) from error


def put_in_place(folder: Path, path: Path) -> None:
    """Makes a folder that was written beside its place the checkpoint.

    Folders, unlike files, cannot replace each other in one go, so the earlier one steps aside first, where
    `last_checkpoint` finds it.

    Args:
        folder: `beside(path)`.
        path: the checkpoint, which may exist as a file or folder.
    """
    aside = _aside(path)
    remove(aside)
    if path.exists():
        os.replace(path, aside)
    os.replace(folder, path)
    remove(aside)


def last_checkpoint(path: Path) -> Path | None:
    """Returns the newest whole checkpoint at a place, or None.

    Args:
        path: such as runs/demo/ppo/checkpoints/last.ckpt.
    """
    return next((found for found in (path, _aside(path)) if found.exists()), None)


def remove(path: Path) -> None:
    """Removes a file or folder, where there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")


def _disk_errors(error: BaseException | None) -> Iterator[OSError]:
    """The errors of the disk among what led to an error."""
    while error is not None:
        if isinstance(error, OSError):
            yield error
        error = error.__cause__ or error.__context__
