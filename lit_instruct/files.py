"""Files that are written whole or not at all, and the folder for files that can be made again."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from lit_instruct.errors import UserError

STAGE_FILE = "stage.json"
MODEL_FILES = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
}


@contextlib.contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """Gives a scratch folder whose files replace those of `folder` when the block ends without an error.

    Nothing of the earlier result is touched before everything new is on the disk.

    Raises:
        UserError: no space is left, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    except OSError as error:
        raise cannot_write(folder, error) from error
    written: set[str] = set()
    try:
        yield scratch
        for path in sorted(scratch.iterdir(), key=lambda path: path.name == STAGE_FILE):  # the record comes last
            if path.is_dir():
                shutil.rmtree(folder / path.name, ignore_errors=True)
            os.replace(path, folder / path.name)
            written.add(path.name)
        if written & MODEL_FILES:
            for stale in MODEL_FILES - written:  # an adapter where a whole model was, or the reverse
                (folder / stale).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def cannot_write(folder: Path, error: Exception, option: str = "--run") -> UserError:
    # safetensors reports errors of the disk as text
    if getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in str(error):
        return UserError(
            f"{folder}: no space left on the disk; free some and run again (earlier results are untouched)"
        )
    return UserError(
        f"{folder}: cannot write here ({getattr(error, 'strerror', error)}); choose another folder with {option}"
    )


def cache_folder() -> Path:
    """Return `$LIT_INSTRUCT_CACHE`, or `lit-instruct` in the user's cache."""
    if chosen := os.environ.get("LIT_INSTRUCT_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lit-instruct"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit-instruct"
