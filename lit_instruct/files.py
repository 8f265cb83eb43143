"""Atomic writes (a file, a folder, or a folder's files together) and the cache folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from lit_instruct.errors import UserError

T = TypeVar("T")


@contextlib.contextmanager
def replacing_files(folder: Path, last: str | None = None, exclusive: Collection[str] = ()) -> Iterator[Path]:
    """Gives a scratch folder whose files replace those of `folder` if the block ends without an error.

    The earlier result is untouched until everything new is on the disk.

    Args:
        folder: created if missing; files with other names stay.
        last: the file to move last, because the others are only valid with it.
        exclusive: names of which only those written by this block may remain, once it has written one of them.

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
        for path in sorted(scratch.iterdir(), key=lambda path: path.name == last):
            if path.is_dir():
                shutil.rmtree(folder / path.name, ignore_errors=True)
            os.replace(path, folder / path.name)
            written.add(path.name)
        if not written.isdisjoint(exclusive):
            for stale in set(exclusive) - written:
                (folder / stale).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Gives a scratch file that replaces `path` if the block ends without an error.

    Raises:
        OSError: it cannot be written; the earlier file is untouched and nothing is left of the new one.
    """
    scratch = beside(path)
    try:
        yield scratch
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """Returns where a file is written before it is renamed; the next run overwrites what a killed run left there."""
    return path.with_name(f"{path.name}.writing")


def built_folder(folder: Path, find: Callable[[Path], T], build: Callable[[Path], T]) -> T:
    """Returns what `find` finds in a folder; an incomplete one is built first, by one of several processes.

    Args:
        folder: appears only once it is complete.
        find: returns something false for an incomplete folder.
        build: makes a folder, beside which it may keep scratch files, and returns what `find` will.
    """
    if found := find(folder):
        return found
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if found := find(folder):  # another process has built it meanwhile
            return found
        for left_over in folder.parent.glob(f".{folder.name}.tmp-*"):  # left by a killed process: we hold the lock
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.tmp-", dir=folder.parent) as scratch:
            ready = Path(scratch) / "ready"  # unlike scratch, readable by other users
            found = build(ready)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(ready, folder)
    return found


def write_text(path: Path, text: str, option: str) -> None:
    """Writes a file in UTF-8, atomically, in a folder that exists; a lone surrogate becomes "?".

    Raises:
        UserError: it cannot be written; the message names the `option` that chose the path.
    """
    try:
        with replacing_file(path) as scratch:
            scratch.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise cannot_write(path, error, option) from error


def json_text(value: Any) -> str:
    """Returns a value as indented JSON with a newline at its end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def cannot_write(place: Path, error: Exception, option: str = "--run") -> UserError:
    """Returns the error for the user if the disk refuses a file or folder that `option` names."""
    # safetensors reports errors of the disk as text
    if getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in str(error):
        return UserError(f"{place}: no space left on the disk; free some and run again (earlier results are untouched)")
    reason = getattr(error, "strerror", error)
    return UserError(f"{place}: cannot write here ({reason}); choose another place with {option}")


def cache_folder() -> Path:
    """Returns `$LIT_INSTRUCT_CACHE`, or `lit-instruct` in the user's cache."""
    if chosen := os.environ.get("LIT_INSTRUCT_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lit-instruct"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit-instruct"
