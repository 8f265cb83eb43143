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

from lit_instruct.errors import UserError
from lit_instruct.files import built_folder, cache_folder, has_sums, sums_of

RECORD = "record.json"
"""Written last: a folder without it is incomplete."""
KEPT_DAYS = 30

Build = Callable[[Path], dict[str, Any]]


class Built(NamedTuple):
    """Tokenised data in a folder."""

    folder: Path
    record: dict[str, Any]
    """What its builder returned, and size and SHA-256 of each file."""
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

    def build_whole(folder: Path) -> dict[str, Any]:
        _forget_unused(parent)
        folder.mkdir()
        record = build(folder)
        record["files"] = sums_of(folder)
        signed = {"record": record, "sha256": _sum(record)}
        (folder / RECORD).write_text(json.dumps(signed, indent=2) + "\n", encoding="utf-8")
        return record

    with _explained(parent):
        return Built(parent / name, built_folder(parent / name, _read, build_whole))


def _read(folder: Path) -> dict[str, Any]:
    """Returns the record of a folder whose files are as they were written, else {}; marks the folder as used now."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        signed = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        whole = isinstance(signed, dict) and signed.get("sha256") == _sum(signed.get("record"))
        if whole and has_sums(folder, signed["record"]["files"]):
            with contextlib.suppress(OSError):  # a cache owned by another user
                os.utime(folder / RECORD)
            return dict(signed["record"])
    return {}


def _sum(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


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
