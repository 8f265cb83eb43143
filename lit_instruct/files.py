"""Atomic writes (a file, a folder, or a folder's files together), digests, locks, `~` and the cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from lit_instruct.errors import UserError
from lit_instruct.terminal import printable_json

log = logging.getLogger(__name__)
SCRATCH = ".writing-"
"""Prefix of folders whose files are not complete yet."""
READY = ".ready"
"""Folder of complete files that are being moved into place."""
REMOVED = ".removed-"
"""Prefix in such a folder of an empty file that stands for one to be removed."""
WRITING = ".writing"
"""Suffix of a file that is not complete yet."""
LOCK = ".lock"
"""Name of the lock file in the folder of a stage; a run that is killed leaves it there, unlocked."""

T = TypeVar("T")


@contextlib.contextmanager
def replacing_files(folder: Path, last: str | None = None, exclusive: Collection[str] = ()) -> Iterator[Path]:
    """Gives a scratch folder whose files replace those of `folder` if the block ends without an error.

    The earlier result is untouched until everything new is on the disk. Then one rename of the scratch folder decides:
    after it a killed process leaves a folder `READY`, from which `finish_replacing` puts all files in place.

    Args:
        folder: created if missing; files with other names stay.
        last: the file to move last, because the others are only valid with it.
        exclusive: names of which only those written by this block may remain, once it has written one of them.

    Raises:
        UserError: no space is left, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        finish_replacing(folder, last)
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=folder))
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield scratch
        _complete(scratch, folder, exclusive)
        scratch.rename(folder / READY)
        finish_replacing(folder, last)
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _complete(scratch: Path, folder: Path, exclusive: Collection[str]) -> None:
    """Notes which files of `folder` are to be removed, and waits until everything is on the disk."""
    written = {path.name for path in scratch.iterdir()}
    if not written.isdisjoint(exclusive):
        for stale in set(exclusive) - written:
            if (folder / stale).exists():
                (scratch / f"{REMOVED}{stale}").touch()
    for path in scratch.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def finish_replacing(folder: Path, last: str | None = None) -> None:
    """Puts the files of `replacing_files` in place; also those of a process that was killed while it did so.

    Raises:
        OSError: the folder cannot be written.
    """
    ready = folder / READY
    if not ready.is_dir():
        return
    for path in sorted(ready.iterdir(), key=lambda path: path.name == last):
        if path.name.startswith(REMOVED):
            (folder / path.name.removeprefix(REMOVED)).unlink(missing_ok=True)
            path.unlink()
            continue
        if path.is_dir():
            shutil.rmtree(folder / path.name, ignore_errors=True)
        os.replace(path, folder / path.name)
    ready.rmdir()


def remove_left_over(folder: Path) -> None:
    """Removes the scratch files and folders that killed processes left in a folder; no other may be writing there."""
    for path in [*folder.rglob(f"*{WRITING}"), *folder.rglob(f"{SCRATCH}*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Holds a lock file while the block runs; the operating system frees the lock of a killed process.

    A file system without locks gets a warning instead.

    Raises:
        UserError: another process holds it; `busy` is the message.
        OSError: the file cannot be made.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(busy) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        log.warning("%s: this file system has no locks; let only one process write to this folder", path.parent)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def complete_lines(path: Path) -> list[str]:
    """Returns the lines of a text file in UTF-8 that another process may be writing, without a half-written last one.

    Raises:
        OSError: it cannot be read.
    """
    *lines, _ = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    return lines


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
    return path.with_name(f"{path.name}{WRITING}")


def built_folder(folder: Path, find: Callable[[Path], T], build: Callable[[Path], T]) -> T:
    """Returns what `find` finds in a folder; an incomplete one is built first, by one of several processes.

    Args:
        folder: appears only once it is complete.
        find: returns something false for an incomplete folder.
        build: makes a folder, beside which it may keep scratch files, and returns what `find` will.
    """
    if found := find(folder):
        return found
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


def sums_of(folder: Path) -> dict[str, list[Any]]:
    """Returns name -> [size, SHA-256] of the files directly in a folder."""
    return {path.name: _sum_of(path) for path in sorted(folder.iterdir()) if path.is_file()}


def has_sums(folder: Path, sums: Any) -> bool:
    """Tells whether the files in a folder are those of `sums_of`; others may be there as well."""
    try:
        names = sums.items()
        return all((folder / name).stat().st_size == size for name, (size, _) in names) and all(
            _sum_of(folder / name) == known for name, known in names
        )
    except (OSError, AttributeError, TypeError, ValueError):  # a file is missing, or what was recorded is damaged
        return False


def _sum_of(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def digest(*parts: Any) -> str:
    """Returns twelve hexadecimal digits that stand for values and contents of files.

    Args:
        parts: paths, of which the content counts, of a stage folder that of its stage.json; other values by their JSON.
    """
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            part = hashlib.sha256((part / "stage.json" if part.is_dir() else part).read_bytes()).hexdigest()
        total.update(json.dumps(part).encode() + b"\n")
    return total.hexdigest()[:12]


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
    return printable_json(json.dumps(value, indent=2, ensure_ascii=False)) + "\n"


def cannot_write(place: Path, error: Exception, option: str = "--run") -> UserError:
    """Returns the error for the user if the disk refuses a file or folder that `option` names."""
    # safetensors reports errors of the disk as text
    if getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in str(error):
        return UserError(f"{place}: no space left on the disk; free some and run again (earlier results are untouched)")
    reason = getattr(error, "strerror", error)
    return UserError(f"{place}: cannot write here ({reason}); choose another place with {option}")


def expand_home(value: str) -> str:
    """Returns a path, or several separated by commas, with `~` and `~user` at the start of each replaced."""
    parts = value.split(",")
    return ",".join(os.path.expanduser(part.strip()) if part.strip().startswith("~") else part for part in parts)


def cache_folder() -> Path:
    """Returns `$LIT_INSTRUCT_CACHE`, or `lit-instruct` in the user's cache."""
    if chosen := os.environ.get("LIT_INSTRUCT_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lit-instruct"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit-instruct"
