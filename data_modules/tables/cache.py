"""Folders of tokenised data in the user's cache: built atomically, keyed by content, reused by later runs.

A folder may be deleted at any time. Folders unused for KEPT_DAYS are deleted when a new one is built.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from lit_instruct.errors import UserError
from lit_instruct.files import cache_folder

RECORD = "record.json"
"""Written last: a folder without it is incomplete."""
KEPT_DAYS = 30

Build = Callable[[Path], dict[str, Any]]


class Built(NamedTuple):
    """Tokenised data in a folder."""

    folder: Path
    record: dict[str, Any]
    """What its builder returned, and the size of each file."""
    scratch: tempfile.TemporaryDirectory[str] | None = None
    """Deletes a folder without a key once nothing refers to it."""


def find_or_build(key: Any, build: Build) -> Built:
    """Returns the folder of a key; of several processes, one builds it and the others wait.

    Args:
        key: JSON-able, everything that the content depends on; None if that is not known: then it is built each time.
        build: writes the content into an empty folder and returns a JSON-able record.

    Raises:
        UserError: the cache folder cannot be written, or `build` raised it; nothing is left behind.
    """
    if key is None:
        scratch = tempfile.TemporaryDirectory(prefix="lit-instruct-tokens-", ignore_cleanup_errors=True)
        return Built(Path(scratch.name), build(Path(scratch.name)), scratch)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    parent = cache_folder() / "tokens"
    folder = parent / name
    with _explained(parent):
        record = _read(folder)
        if record is None:
            parent.mkdir(parents=True, exist_ok=True)
            with FileLock(parent / f".{name}.lock"):
                record = _read(folder)  # another process may have built it while this one waited
                if record is None:
                    record = _build(folder, build)
    return Built(folder, record)


def _read(folder: Path) -> dict[str, Any] | None:
    """Returns the record of a complete folder and marks the folder as used now."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in record["files"].items())
    except (OSError, ValueError):
        return None
    if not whole:
        return None
    with contextlib.suppress(OSError):  # a cache owned by another user
        os.utime(folder / RECORD)
    return record


def _build(folder: Path, build: Build) -> dict[str, Any]:
    _forget_unused(folder.parent)
    for left_over in folder.parent.glob(f".{folder.name}.tmp-*"):  # left by a killed process: we hold the lock
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.tmp-", dir=folder.parent) as scratch:
        ready = Path(scratch) / "ready"  # unlike scratch, readable by other users
        ready.mkdir()
        record = build(ready)
        record["files"] = {file.name: file.stat().st_size for file in sorted(ready.iterdir())}
        (ready / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # an incomplete one
        os.replace(ready, folder)
    return record


def _forget_unused(parent: Path) -> None:
    oldest = time.time() - KEPT_DAYS * 86_400
    for record in parent.glob(f"*/{RECORD}"):
        with contextlib.suppress(OSError):
            if record.stat().st_mtime < oldest:
                shutil.rmtree(record.parent, ignore_errors=True)


@contextlib.contextmanager
def _explained(parent: Path) -> Iterator[None]:
    """Turns an error of the file system into a UserError that names the cache folder."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno == errno.ENOSPC else error.strerror or error
        raise UserError(
            f"{parent}: the cache folder for tokenised data cannot be written ({reason}); free some space, or set "
            "LIT_INSTRUCT_CACHE to another folder"
        ) from error
