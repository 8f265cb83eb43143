"""What is wrong with the files of a model that cannot be opened."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

POINTER = b"version https://git-lfs"
"""How the file begins that Git-LFS leaves in the place of a file that was not downloaded."""


def damaged_file(*folders: Path | None) -> str | None:
    """Returns which file of a model is damaged and what to do, as the rest of a sentence; None if none is.

    Args:
        folders: of the model, and of an adapter; those that do not exist are left out.
    """
    files = [file for folder in folders if folder is not None and folder.is_dir() for file in sorted(folder.iterdir())]
    for file in files:
        if file.suffix in (".safetensors", ".json", ".model", ".bin") and file.is_file():
            with file.open("rb") as stream:
                if stream.read(len(POINTER)) == POINTER:
                    return f"{file} is a Git-LFS pointer rather than the file; run `git lfs pull` where it was cloned"
    for file in files:
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
            elif file.suffix == ".json":
                json.loads(file.read_bytes())
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            return f"{file} is damaged or cut short ({' '.join(str(error).split())[:100]}); copy or download it again"
    return None
