"""A file, a folder or a hub dataset -> records, one at a time, each with its place.

Memory does not grow with the data. An error in one record is raised when that record is decoded, so that the next one
can still be read; an error in a file ends reading.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data_modules.reading.files import MAX_LINE, TOO_LONG, Found, Record, decode, read_lines
from data_modules.reading.folders import READERS, TEXT_SUFFIX, endings, files_of, find_folder, kind_of, splits_of
from data_modules.reading.given import GivenRows
from data_modules.reading.sources import parse_sources
from lit_instruct.errors import DataError

HUB_ID = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<config>[\w.+-]+))?:(?P<split>[\w.+\[\]%:-]+)"
)
"""org/name:split or org/name:config:split; org/name@revision selects a commit, tag or branch."""
NETWORK = ("httpx", "httpcore", "requests", "urllib3", "aiohttp")
"""Libraries whose own exceptions `datasets` lets through."""


def read_source(
    path: str, text_field: str | None = None, only_text: bool = False, split: str | None = "train"
) -> Iterator[Found]:
    """Yields the records of a file, of the files in a folder, or of a hub dataset.

    Args:
        path: a .jsonl, .json, .csv (each also .gz), .parquet or .arrow file, a folder of those, also with its split
            ("folder:test", "folder:subset:test"), or a hub id with its split, "org/name:train" or
            "org/name:config:train" (at a commit, tag or branch: "org/name@revision:train"), or rows given in Python.
        text_field: the field that holds a line of a .txt file; None refuses plain text.
        only_text: read a file as plain text whatever its name; needs `text_field`.
        split: of a folder with several splits, if the path names none; None refuses to choose.

    Raises:
        DataError: a file cannot be read, or its content contradicts its name.
    """
    if isinstance(path, GivenRows):
        yield from path.found(text_field)
        return
    if (hub := hub_id(path)) is not None:
        yield from read_hub(hub["name"], hub["config"], hub["split"], hub["revision"])
        return
    for file in local_files(path, text_field is not None, split):
        yield from _read_file(file, text_field, only_text)


def hub_id(path: str) -> re.Match[str] | None:
    """The parts of a hub id; None if the path is a file or folder, or looks like one."""
    return None if os.path.exists(path) or find_folder(path) is not None else HUB_ID.fullmatch(path)


def local_files(path: str, plain_text: bool, split: str | None = "train") -> list[Path]:
    """The files that a path stands for: the path itself, or those of a folder.

    Args:
        path: a file or a folder, as for `read_source`.
        plain_text: whether .txt files can be rows.
        split: as for `read_source`.

    Raises:
        DataError: a folder holds no such files, or does not tell which.
    """
    found = find_folder(path)
    if found is None:
        return [Path(path)]
    folder, subset, named = found
    return files_of(folder, plain_text, subset, named, split)


def notes_on_splits(path: str, plain_text: bool, split: str) -> list[str]:
    """Returns a sentence for each folder of several splits among the sources of a path, of which `split` is read."""
    paths = [source.path for source in parse_sources(path) if not isinstance(source.path, GivenRows)]
    splits = {path: splits_of(path, plain_text) for path in paths}
    return [
        f"{folder}: read its split {split} alone; it also has {', '.join(others)}: name one as {folder}:{others[0]}."
        for folder, found in splits.items()
        if (others := [name for name in found if name != split])
        if split in found
    ]


def read_plain_lines(path: Path, field: str) -> Iterator[Found]:
    """Yields one record {field: line} per line; empty lines are skipped."""
    for number, line in read_lines(path):
        if line is None or line.strip():
            yield Found(f"{path}:{number}", partial(_text_record, line, field), line)


def read_hub(name: str, config: str | None, split: str, revision: str | None = None) -> Iterator[Found]:
    """Streams a split of a hub dataset, without running code from its repository.

    Args:
        name: such as "org/name".
        config: one of its configurations; None is the default.
        split: such as "train".
        revision: commit, tag or branch; None is the latest.

    Raises:
        DataError: there is no such dataset, configuration or split, or the hub cannot be reached.
    """
    import datasets  # imports slowly

    pinned = f"{name}@{revision}" if revision else name
    named = f"{pinned}:{config}:{split}" if config else f"{pinned}:{split}"
    number = 0
    try:
        for record in datasets.load_dataset(name, config, split=split, revision=revision, streaming=True):
            number += 1
            yield Found(f"{named}:row {number}", partial(_hub_record, record), None)
    except ConnectionError as error:  # offline included
        raise DataError(f"{named}: the hub cannot be reached ({_first_line(error)}); save it as a file first") from None
    except (OSError, ValueError, RuntimeError) as error:  # raised by `datasets` for a wrong id, config or split
        raise DataError(
            f"{named}:row {number + 1}: cannot be read from the hub ({_first_line(error)}); check id and split"
        ) from None
    except Exception as error:
        if not type(error).__module__.startswith(NETWORK):
            raise
        raise DataError(f"{named}: the hub cannot be reached ({_first_line(error)}); save it as a file first") from None


def _read_file(path: Path, text_field: str | None, only_text: bool) -> Iterator[Found]:
    kind = kind_of(path)
    if text_field is not None and (only_text or kind == TEXT_SUFFIX):
        return read_plain_lines(path, text_field)
    if kind in READERS:
        return READERS[kind](path)
    if path.suffix.lower() in (".parquet", ".arrow"):
        from data_modules.reading.arrow_files import read_arrow, read_parquet  # pyarrow imports slowly

        return read_parquet(path) if kind == ".parquet" else read_arrow(path)
    if path.suffix.lower() == ".gz" and kind in (".parquet", ".arrow"):
        raise DataError(f"{path}: a {kind[1:].capitalize()} file is compressed inside; unpack this one")
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file; check the path, or give a hub id with its split, org/name:train")
    raise DataError(f"{path}: rows come as {endings(text_field is not None)}; rename or convert the file")


def _text_record(line: bytes | None, field: str) -> Record:
    return {field: decode(line)}


def _hub_record(record: Record) -> Record:
    if _size(record) > MAX_LINE:
        raise DataError(f"the row is {TOO_LONG}")
    return dict(record)


def _size(value: Any) -> int:
    """Characters and bytes in a value, about; a number counts as eight."""
    if isinstance(value, dict | list | tuple):
        return sum(map(_size, value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, str | bytes) else 8


def _first_line(error: Exception) -> Any:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
