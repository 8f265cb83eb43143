"""Reads checkpoint files: tensors and plain values only, written by a stage."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from lit_instruct.errors import UserError

NEEDED = {
    "pytorch-lightning_version": str,
    "epoch": int,
    "global_step": int,
    "state_dict": dict,
    "seconds": float,
    "logged_steps": int,
    "metrics": dict,
    "options": dict,
    "stopped": bool,
}
"""What every checkpoint of a stage has; parts of the training's state may be missing."""
OPTIONAL = {"callbacks": dict, "loops": dict, "optimizer_states": list, "lr_schedulers": list, "ppo": dict}


@contextlib.contextmanager
def opening(path: str | Path) -> Iterator[None]:
    """Turns the errors of a damaged file, or of one that contains other objects, into a UserError."""
    try:
        yield
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # torch's reader raises whatever the damage leads to, such as KeyError
        told = isinstance(error, RuntimeError | OSError | ValueError | pickle.UnpicklingError) and str(error)
        reason = (
            shorten(told.splitlines()[0].partition(". ")[0], 120, placeholder=" ...")
            if told
            else "it is truncated or changed"
        )
        told = f"--ckpt_path: {path} is damaged or not a checkpoint ({reason}); give another one, or "
        raise UserError(told + "start a new training") from error


def check_checkpoint(checkpoint: Any, path: str | Path) -> dict[str, Any]:
    """Returns the content of a file if it is a checkpoint of a stage.

    Raises:
        UserError: it is something else.
    """
    found = checkpoint if isinstance(checkpoint, dict) else {}
    kinds = NEEDED | {name: kind for name, kind in OPTIONAL.items() if name in found}
    wrong = [name for name, kind in kinds.items() if not isinstance(found.get(name), kind)]
    if not wrong and not all(isinstance(weight, torch.Tensor) for weight in found["state_dict"].values()):
        wrong = ["state_dict"]
    if wrong:
        raise UserError(
            f"--ckpt_path: {path} is not a checkpoint of a stage (its {wrong[0]!r} is missing or of another type); "
            "give one that lit-instruct wrote, such as last.ckpt; models go to --model.base"
        )
    return found


def read_checkpoint(path: str | Path, device: torch.device | str, mmap: bool = False) -> dict[str, Any]:
    """Returns the content of a checkpoint of a stage.

    Args:
        path: of the file.
        device: where its tensors are put.
        mmap: whether they stay in the file until they are read.

    Raises:
        UserError: the file is damaged, or something else.
    """
    with opening(path):
        checkpoint = torch.load(path, map_location=device, mmap=mmap, weights_only=True)
    return check_checkpoint(checkpoint, path)
