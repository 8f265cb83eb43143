"""Where files go that can be made again: the embedded model and tokenised data."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return `$LIT_INSTRUCT_CACHE`, or `lit-instruct` in the user's cache."""
    if chosen := os.environ.get("LIT_INSTRUCT_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lit-instruct"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit-instruct"
