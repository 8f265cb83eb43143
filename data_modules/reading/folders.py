"""The files of rows in a folder: those of one split, in the layouts of the hub and of `datasets.save_to_disk`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from data_modules.reading.csv_files import read_csv
from data_modules.reading.files import MAX_LINE, Found
from data_modules.reading.json_files import read_json_lines, read_json_list
from lit_instruct.errors import DataError

READERS: dict[str, Callable[[Path], Iterator[Found]]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json_list,
    ".csv": read_csv,
    ".tsv": partial(read_csv, delimiter="\t"),
}
ROW_SUFFIXES = (*READERS, ".parquet", ".arrow")
TEXT_SUFFIX = ".txt"
NAMED_SPLIT = re.compile(r"(?P<folder>.+?)(:(?P<subset>[\w.+/-]+))?:(?P<split>[\w.+-]+)")
"""folder:split or folder:subset:split."""
WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test", "evaluation": "test"}
WORDS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
"""Words in the name of a file or folder -> its split, as on the hub."""
SHARD = re.compile(r"(?P<split>\w[\w.]*)-\d{5}-of-\d{5}")
"""A file of the hub: its split may have any name, such as train_prefs."""
METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


class Part(NamedTuple):
    """A file of rows in a folder."""

    file: Path
    split: str | None
    """None if its name does not tell."""
    subset: str
    """The subfolder in which its splits lie; "" for the folder itself."""


def find_folder(path: str) -> tuple[Path, str | None, str | None] | None:
    """Returns folder, subset and split of a path, such as data:test; None if it names no folder."""
    # Unlike Path's methods, those of os.path take any text, such as a long list of files.
    if os.path.isdir(path):
        return Path(path), None, None
    found = NAMED_SPLIT.fullmatch(path)
    if os.path.exists(path) or found is None or not os.path.isdir(found["folder"]):
        return None
    return Path(found["folder"]), found["subset"], found["split"]


def files_of(
    folder: Path,
    plain_text: bool,
    subset: str | None = None,
    split: str | None = None,
    default: str | None = "train",
) -> list[Path]:
    """The files of rows of one split in a folder and its subfolders, sorted by name; metadata is left out.

    A folder without splits is read whole, and so is one with one split only, unless that is another than `default`.

    Args:
        folder: hidden files and folders in it are ignored.
        plain_text: whether .txt files can be rows: they are if there is nothing else.
        subset: one of its subsets; None if there is only one, or for all of a split.
        split: one of its splits.
        default: the split if none is named; None takes the only one, and refuses to choose among several.

    Raises:
        DataError: there is no file, no such subset or split, a choice has to be made, or all files are of a split that
            is not `default`.
    """
    parts = _parts(folder, plain_text)
    if subset is not None:
        parts = _chosen(folder, parts, subset, "subset")
    if split is not None:
        return [part.file for part in _chosen(folder, parts, WORDS.get(split, split), "split")]
    splits = {part.split for part in parts}
    if len(splits) > 1 and (splits != {"train", None} or default == "validation"):
        if default not in splits or None in splits:
            raise _ask(folder, parts)
        parts = [part for part in parts if part.split == default]
    elif default is not None and any(_split_in(split or "") not in (default, None) for split in splits):
        raise DataError(
            f"{folder}: all its files are of the split {parts[0].split}, and none of {default}; if they are meant, "
            f"name it: {folder}:{parts[0].split}"
        )
    if None not in splits and len({part.subset for part in parts}) > 1:
        raise _ask(folder, parts)
    return [part.file for part in parts]


def splits_of(path: str, plain_text: bool) -> list[str]:
    """Returns the names of a folder's splits, as in path:split; none if the path names no folder, or a split of it."""
    found = find_folder(path)
    if found is None or found[2] is not None:
        return []
    return sorted({part.split for part in _parts(found[0], plain_text) if part.split is not None})


def kind_of(path: Path) -> str:
    """The suffix that tells the file type, without .gz: ".jsonl" for rows.jsonl.gz."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def endings(plain_text: bool) -> str:
    """The endings of files of rows, for messages."""
    return ", ".join((*ROW_SUFFIXES, TEXT_SUFFIX) if plain_text else ROW_SUFFIXES)


def _parts(folder: Path, plain_text: bool) -> list[Part]:
    visible = [file for file in folder.rglob("*") if not any(p[0] in "._" for p in file.relative_to(folder).parts)]
    files = sorted(file for file in visible if file.is_file())
    rows = [file for file in files if kind_of(file) in ROW_SUFFIXES and not _is_metadata(file)]
    if not rows and plain_text:
        rows = [file for file in files if kind_of(file) == TEXT_SUFFIX]
    if not rows:
        raise DataError(f"{folder}: no file of rows in this folder ({endings(plain_text)}); check the path")
    if saved := _saved(folder, rows):
        return saved
    parts = [_part(folder, file) for file in rows]
    if configured := _configured(folder, rows):
        known = {part.split for part in configured} | {None}
        return configured + [part for part in parts if part.split not in known]  # splits that the card leaves out
    alike = len({part.split for part in parts}) == 1  # then subfolders are only a way to keep files
    return [part._replace(subset="") for part in parts] if alike else parts


def _part(folder: Path, file: Path) -> Part:
    """Split and subset by the names of a file and its folders."""
    parents = [parent for parent in file.relative_to(folder).parts[:-1] if parent != "data"]
    shard = SHARD.fullmatch(file.name.split(".")[0])
    split = WORDS.get(shard["split"], shard["split"]) if shard is not None else _split_in(file.name.split(".")[0])
    if split in (None, "data"):  # datasets.save_to_disk calls every shard data
        split = next((found for parent in reversed(parents) if (found := _split_in(parent)) is not None), None)
    return Part(file, split, "/".join(parent for parent in parents if _split_in(parent) != split or split is None))


def _split_in(name: str) -> str | None:
    return next((WORDS[word] for word in re.split("[^a-z]+", name.lower()) if word in WORDS), None)


def _configured(folder: Path, files: Sequence[Path]) -> list[Part]:
    """The files by the configurations in the hub's README.md; none if it lists none."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    try:
        card = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") and text.count("---\n") > 1 else None
        configs = [(one["config_name"], _patterns(one["data_files"])) for one in (card or {})["configs"]]
    except (yaml.YAMLError, LookupError, TypeError):  # no card, or one that says nothing of files
        return []
    names = {file: str(file.relative_to(folder)) for file in files}
    return [
        Part(file, WORDS.get(split, split), config if len(configs) > 1 else "")
        for config, patterns in configs
        for split, pattern in patterns
        for file, name in names.items()
        if fnmatch(name, pattern)
    ]


def _patterns(data_files: Any) -> list[tuple[str, str]]:
    """(split, pattern) of a configuration's data_files: one pattern, several, or several by split."""
    if isinstance(data_files, dict):
        data_files = [{"split": split, "path": path} for split, path in data_files.items()]
    found = [one if isinstance(one, dict) else {"split": "train", "path": one} for one in _as_list(data_files)]
    return [(one["split"], path) for one in found for path in _as_list(one["path"])]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _saved(folder: Path, files: Sequence[Path]) -> list[Part]:
    """The files of a DatasetDict that was saved by `save_to_disk`, each split in a folder of its own; else none."""
    if not (folder / "dataset_dict.json").is_file():
        return []
    return [Part(file, file.relative_to(folder).parts[0], "") for file in files if file.parent != folder]


def _is_metadata(file: Path) -> bool:
    """Whether a file says something about the data: one JSON object without a list in it, or a cache of `datasets`."""
    if file.name in METADATA or (file.suffix == ".arrow" and file.name.startswith("cache-")):
        return True
    if file.suffix.lower() != ".json" or file.stat().st_size > MAX_LINE:
        return False
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):  # reading the rows will say what is wrong
        return False
    return isinstance(content, dict) and not any(isinstance(value, list) for value in content.values())


def _chosen(folder: Path, parts: Iterable[Part], wanted: str, field: str) -> list[Part]:
    parts = list(parts)
    found = [part for part in parts if getattr(part, field) == wanted]
    if not found:
        has = sorted({getattr(part, field) or "" for part in parts} - {""})
        raise DataError(f"{folder}: it has no {field} {wanted}; it has {', '.join(has) or f'no {field}s'}")
    return found


def _ask(folder: Path, parts: Sequence[Part]) -> DataError:
    subsets = sorted({part.subset for part in parts if part.subset})
    splits = sorted({part.split for part in parts if part.split is not None})
    if len({part.split for part in parts}) == 1:
        return DataError(
            f"{folder}: it holds the subsets {', '.join(subsets)}; name one, such as "
            f"{folder}:{subsets[0]}:{splits[0]}, or take all of them with {folder}:{splits[0]}"
        )
    rest = [part.file.relative_to(folder) for part in parts if part.split is None]
    more = f" and files of no split, such as {rest[0]}" if rest else ""
    return DataError(
        f"{folder}: it holds the splits {', '.join(splits)}{more}; name what to read, such as {folder}:{splits[0]}"
        + (f" or {rest[0].name}" if rest else "")
    )
