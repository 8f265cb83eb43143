"""A stage's folder belongs to one run at a time, which first puts in order what killed runs left in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lit_instruct.files import LOCK, cannot_write, locked, remove_left_over
from lit_instruct.handover import finish_stage


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a stage's folder, and puts in order what killed runs left in it.

    A result that a killed run had completed is put in place, and its scratch files are removed. The folder is made if
    it is missing; if the block leaves it empty, it is removed again.

    Raises:
        UserError: another run is using it, or it cannot be made.
    """
    made: list[Path] = []
    with contextlib.ExitStack() as stack:
        try:
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            busy = f"{folder}: another run is using this folder; wait until it ends, or choose another with --run"
            stack.callback(_remove_empty, made)
            stack.enter_context(locked(folder / LOCK, busy))
            finish_stage(folder)
            remove_left_over(folder)
        except OSError as error:
            raise cannot_write(folder, error) from error
        yield


def _remove_empty(folders: list[Path]) -> None:
    for path in folders:
        with contextlib.suppress(OSError):
            path.rmdir()
