"""`lit-instruct rank status`, `rank import`, `rank export`: a store of rankings without its server."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lit_instruct.commands.sample import write_jsonl
from lit_instruct.errors import UserError
from lit_instruct.files import json_text, write_text
from lit_instruct.labeling.exports import Format, rows_of
from lit_instruct.labeling.imports import Counts, Given, add_rankings, given_rankings
from lit_instruct.labeling.labelers import labeler_name
from lit_instruct.labeling.rankings import LabelerSplit, Ranked, held_out, rankings
from lit_instruct.labeling.status import status
from lit_instruct.labeling.store import Store, new_store

LISTS = ("argilla", "label-studio")
"""Layouts that are one JSON list, not lines."""


@dataclass
class StatusOptions:
    """Says how many tasks are ranked, open and leased, and what each labeler did.

    Args:
        store: file of tasks and rankings.
        json: print it as JSON.
    """

    store: str
    json: bool = False


@dataclass
class ImportData:
    """Rankings.

    Args:
        path: file in any layout of ranked comparisons, such as an export of a labeling tool.
        fields: field of the layout -> its name in the file, such as {prompt: question}.
    """

    path: str
    fields: dict[str, str] | None = None


@dataclass
class ImportOptions:
    """Adds rankings that were made elsewhere to a store, also while its page is served.

    A ranking that the store has is not added again, and a labeler's first answer to a task stays.

    Args:
        store: file of tasks and rankings; made if it is not there.
        data: the rankings.
        labeler: who made the rankings of rows that name no labeler.
    """

    store: str
    data: ImportData
    labeler: str | None = None


@dataclass
class ExportOptions:
    """Writes the rankings of a store for training, or for another program.

    Args:
        store: file of tasks and rankings.
        out: file to write: .jsonl, or .json for argilla and label-studio. With labelers held out, their rankings go
            into a second one, such as ranked-held-out.jsonl.
        format: ranked (rows of `rm fit`), trl (preference pairs), nemo-rl, argilla or label-studio.
        labelers: labelers whose rankings are kept apart.
    """

    store: str
    out: str
    format: Format = "ranked"
    labelers: LabelerSplit = field(default_factory=LabelerSplit)


def show_status(options: StatusOptions) -> None:
    """Prints how far a store is.

    Raises:
        UserError: there is no such store.
    """
    with contextlib.closing(Store(Path(options.store))) as store:
        found = status(store, time.time())
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    print(
        f"{options.store}: {found['tasks']} tasks, {found['rankings']} of {found['wanted']} rankings; "
        f"{found['cannot_judge']} cannot be judged, {found['leased']} being ranked now, {found['open']} open"
    )
    for name, one in found["labelers"].items():
        seconds = "" if one["median_seconds"] is None else f", {one['median_seconds']} s a task (median)"
        more = f"{one['cannot_judge']} cannot be judged, {one['skipped']} skipped{seconds}"
        print(f"  {name}: {one['rankings']} rankings, {more}")


def import_rankings(options: ImportOptions) -> None:
    """Adds the rankings of a file to a store, all of them or none.

    Raises:
        UserError: the file or the store cannot be used.
    """
    path = Path(options.store)
    if options.labeler is not None:
        _check_labeler(options.labeler)
    if path.exists():
        Store(path).close()  # before a long file is read
    found, left_out = given_rankings(options.data.path, options.data.fields, options.labeler)
    if not path.exists():
        meta = {"run": None, "data": options.data.path, "seed": 0, "k": None}
        with new_store(path, meta) as connection:
            counts = add_rankings(connection, found, time.time())
    else:
        counts = _add(path, found)
    names = sorted({one.labeler for one in found})
    print(
        f"{path}: {_words(counts, names)}"
        + (f"; {left_out} rows have fewer than two different responses" if left_out else "")
    )


def _check_labeler(name: str) -> None:
    try:
        labeler_name(name)
    except UserError as error:
        raise UserError(f"--labeler: {error}") from error


def _add(path: Path, found: Sequence[Given]) -> Counts:
    try:
        with contextlib.closing(Store(path)) as store, store.writing() as connection:
            return add_rankings(connection, found, time.time())
    except sqlite3.Error as error:
        raise UserError(
            f"--store={path}: it cannot be written ({error}); nothing was imported, run it again"
        ) from error


def _words(counts: Counts, names: Sequence[str]) -> str:
    parts = [f"{counts['rankings']} rankings by {', '.join(names)} added, with {counts['tasks']} new tasks"]
    if counts["known"]:
        parts.append(f"{counts['known']} were there already")
    if counts["different"]:
        parts.append(f"{counts['different']} left out, whose labeler has answered the task differently before")
    return "; ".join(parts)


def export(options: ExportOptions) -> list[Path]:
    """Writes the rankings and returns the files.

    Raises:
        UserError: there is no such store, no ranking, or the file cannot be written.
    """
    out = Path(options.out)
    if not out.parent.is_dir():
        raise UserError(f"--out={out}: no such folder; make it first")
    with contextlib.closing(Store(Path(options.store))) as store:
        found = rankings(store)
        if not found:
            raise UserError(
                f"--store={options.store}: it has no rankings yet; let labelers rank with `lit-instruct rank`"
            )
        apart = held_out(store, [one.labeler for one in found], options.labelers.held_out)
    written = [_write(out, [one for one in found if one.labeler not in apart], options.format)]
    if apart:
        kept = out.with_name(f"{out.stem}-held-out{out.suffix}")
        written.append(_write(kept, [one for one in found if one.labeler in apart], options.format))
    return written


def _write(out: Path, found: Sequence[Ranked], layout: Format) -> Path:
    rows = rows_of(found, layout)
    if layout in LISTS:
        write_text(out, json_text(rows), "--out")
    else:
        write_jsonl(out, rows)
    labelers = sorted({one.labeler for one in found})
    print(f"{out}: {len(rows)} rows from {len(found)} rankings by {', '.join(labelers)}")
    return out
