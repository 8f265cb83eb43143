"""A file, a folder or a hub dataset -> records, one at a time, each with its place.

Memory does not grow with the data. An error in one record is raised when that record is decoded, so that the next one
can still be read; an error in a file ends reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data_modules.reading.csv_files import read_csv
from data_modules.reading.files import Found, Record, decode, read_lines
from data_modules.reading.json_files import read_json_lines, read_json_list
from lit_instruct.errors import DataError

READERS = {".jsonl": read_json_lines, ".ndjson": read_json_lines, ".json": read_json_list, ".csv": read_csv}
ROW_SUFFIXES = (*READERS, ".parquet")
TEXT_SUFFIX = ".txt"
HUB_ID = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<config>[\w.+-]+))?:(?P<split>[\w.+\[\]%:-]+)"
)
"""org/name:split or org/name:config:split; org/name@revision selects a commit, tag or branch."""


def read_source(path: str, text_field: str | None = None, only_text: bool = False) -> Iterator[Found]:
    """Yields the records of a file, of the files in a folder, or of a hub dataset.

    Args:
        path: a .jsonl, .json, .csv (each also .gz) or .parquet file, a folder of those, or a hub id with its split,
            "org/name:train" or "org/name:config:train" (at a commit, tag or branch: "org/name@revision:train").
        text_field: the field that holds a line of a .txt file; None refuses plain text.
        only_text: read a file as plain text whatever its name; needs `text_field`.

    Raises:
        DataError: a file cannot be read, or its content contradicts its name.
    """
    place = Path(path)
    if not place.exists() and (hub := HUB_ID.fullmatch(path)):
        yield from read_hub(hub["name"], hub["config"], hub["split"], hub["revision"])
    elif place.is_dir():
        for file in files_of(place, plain_text=text_field is not None):
            yield from _read_file(file, text_field, only_text)
    else:
        yield from _read_file(place, text_field, only_text)


def kind_of(path: Path) -> str:
    """The suffix that tells the file type, without .gz: ".jsonl" for rows.jsonl.gz."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def files_of(folder: Path, plain_text: bool) -> list[Path]:
    """The files of rows in a folder and its subfolders, sorted by name; plain text only if there is nothing else.

    Args:
        folder: hidden files and folders in it are ignored.
        plain_text: whether .txt files can be rows.

    Raises:
        DataError: there is none.
    """
    visible = [file for file in folder.rglob("*") if not any(p[0] in "._" for p in file.relative_to(folder).parts)]
    files = sorted(file for file in visible if file.is_file())
    rows = [file for file in files if kind_of(file) in ROW_SUFFIXES]
    if not rows and plain_text:
        rows = [file for file in files if kind_of(file) == TEXT_SUFFIX]
    if not rows:
        raise DataError(f"{folder}: no file of rows in this folder ({_endings(plain_text)}); check the path")
    return rows


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
            yield Found(f"{named}:row {number}", partial(dict, record), None)
    except ConnectionError as error:  # offline included
        raise DataError(f"{named}: the hub cannot be reached ({_first_line(error)}); save it as a file first") from None
    except (OSError, ValueError, RuntimeError) as error:  # raised by `datasets` for a wrong id, config or split
        raise DataError(
            f"{named}:row {number + 1}: cannot be read from the hub ({_first_line(error)}); check id and split"
        ) from None


def _read_file(path: Path, text_field: str | None, only_text: bool) -> Iterator[Found]:
    kind = kind_of(path)
    if text_field is not None and (only_text or kind == TEXT_SUFFIX):
        return read_plain_lines(path, text_field)
    if kind in READERS:
        return READERS[kind](path)
    if path.suffix.lower() == ".parquet":
        from data_modules.reading.parquet_files import read_parquet  # pyarrow imports slowly

        return read_parquet(path)
    if path.suffix.lower() == ".gz" and kind == ".parquet":
        raise DataError(f"{path}: a Parquet file is compressed inside; unpack this one")
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path, or give a hub id with its split, org/name:train")
    raise DataError(f"{path}: rows come as {_endings(text_field is not None)}; rename or convert the file")


def _text_record(line: bytes | None, field: str) -> Record:
    return {field: decode(line)}


def _endings(plain_text: bool) -> str:
    return ", ".join((*ROW_SUFFIXES, TEXT_SUFFIX) if plain_text else ROW_SUFFIXES)


def _first_line(error: Exception) -> Any:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
