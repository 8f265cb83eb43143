"""The target folder of an export: replaced as a whole, and only if it holds nothing but an earlier export."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lit_instruct.errors import UserError
from lit_instruct.files import cannot_write, locked

RECORD = "export.json"
"""Describes the export and lists its files; a target with only listed files is an earlier export."""


def check_target(target: Path, source: Path) -> None:
    """Raises UserError if a target is a file, the folder `source` itself, or has files that no export wrote."""
    if target.exists() and not target.is_dir():
        raise UserError(f"--to={target}: this is a file; name a folder")
    if target.exists() and source.exists() and target.resolve() == source.resolve():
        raise UserError(f"--to={target}: this is the exported folder itself; name another")
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    foreign = [name for name in found if name not in _written(target)]
    if foreign:
        raise UserError(f"--to={target}: it holds {foreign[0]}, which no export wrote; name a new folder")


def _written(target: Path) -> set[str]:
    try:
        files = json.loads((target / RECORD).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {RECORD, *map(str, files)} if isinstance(files, list) else set()


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes export.json with the list of the folder's files."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    (folder / RECORD).write_text(json.dumps(record | {"files": files}, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Gives a scratch folder that replaces `target` if the block ends without an error; otherwise nothing changes.

    Raises:
        UserError: no space is left, the folder cannot be written, or another export is writing it.
    """
    prefix, busy = f".{target.name}.writing-", f"--to={target}: another export is writing it; wait until it ends"
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(target.parent / f".{target.name}.lock", busy))
            _remove_left_over(target, prefix)
            stack.callback(_remove_left_over, target, prefix)
            stack.enter_context(_ended_by_sigterm())
            scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
            new = scratch / "new"
            new.mkdir()
            yield new
            for path in new.rglob("*"):
                if path.is_file():  # safetensors saves weights readable only by their owner
                    path.chmod(new.stat().st_mode & 0o666)
            if target.exists():
                os.replace(target, scratch / "old")
            os.replace(new, target)
        except (OSError, SafetensorError) as error:
            raise cannot_write(target, error, "--to") from error


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM end the block as Ctrl-C does, so that scratch folders are removed."""
    if threading.current_thread() is not threading.main_thread():  # signals reach only the main one
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _remove_left_over(target: Path, prefix: str) -> None:
    """Removes scratch folders; the earlier export is first put back if a failure or kill left it in one."""
    for left_over in target.parent.glob(f"{glob.escape(prefix)}*"):
        if not target.exists() and (left_over / "old").exists():
            os.replace(left_over / "old", target)
        shutil.rmtree(left_over, ignore_errors=True)
