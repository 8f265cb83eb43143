"""Task files of the user: lm_eval's YAML is checked to run no code, and questions in JSON lines become such a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from data_modules.reading.json_files import read_json_lines
from lit_instruct.errors import DataError, UserError

ROWS, FILES = (".jsonl",), (".yaml", ".yml")
"""Suffixes of rows of questions, and of lm_eval's task files."""
BUILDERS = ("json", "csv", "parquet", "text", "arrow")
"""What `datasets` may read local files with; others of its builders unpickle or connect to databases."""
ADVICE = 'give {"query": "...", "choices": ["...", "..."], "gold": 0} or {"text": "..."} on every line'


def is_file(name: str) -> bool:
    """Returns whether a name of --tasks means a file, by its suffix."""
    return Path(name).suffix in (*ROWS, *FILES)


def task_file(path: Path) -> dict[str, Any]:
    """Returns the config of a task file, with what it includes.

    Args:
        path: YAML of lm_eval; data files in it are relative to the current folder, as in lm_eval.

    Raises:
        UserError: it cannot be read, or it names Python code.
    """
    config = _read_yaml(path, ())
    if not isinstance(config.get("task"), str):
        raise UserError(f"{path}: no task file of lm_eval; give it a name with `task: my_task`")
    source = str(config.get("dataset_path", ""))
    if "/" not in source and source not in BUILDERS:
        raise UserError(
            f"{path}: dataset_path: {source or 'missing'}; give a hub id, org/name, or one of {', '.join(BUILDERS)}"
        )
    return config


def question_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the questions, or the texts, of a file of JSON lines.

    Args:
        path: every line has `query`, two or more `choices` and the number of the right one, `gold`, from 0; or every
            line has a `text`.

    Raises:
        UserError: naming the line.
    """
    try:
        found = [(one.where, _record_of(one)) for one in read_json_lines(path)]
    except OSError as error:
        raise UserError(f"--tasks: {path}: {error.strerror}; check the path") from error
    if not found:
        raise UserError(f"--tasks: {path}: no questions in it; {ADVICE}")
    texts = "text" in found[0][1]
    return [_text(where, row) if texts else _question(where, row) for where, row in found]


def _record_of(one: Any) -> dict[str, Any]:
    try:
        return dict(one.fields())
    except DataError as error:
        raise UserError(f"{one.where}: {error}") from None


def _text(where: str, row: dict[str, Any]) -> dict[str, Any]:
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: no text; {ADVICE}")
    return {"text": text}


def _question(where: str, row: dict[str, Any]) -> dict[str, Any]:
    query, choices, gold = (row.get(name) for name in ("query", "choices", "gold"))
    texts = isinstance(choices, list) and all(isinstance(choice, str) and choice.strip() for choice in choices)
    if not isinstance(query, str) or not query.strip() or not texts or len(choices or []) < 2:
        raise UserError(f"{where}: no question with choices; {ADVICE}")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices or []):
        raise UserError(f"{where}: no answer: gold is {gold!r}; give the number of the right choice, from 0")
    return {"query": query, "choices": choices, "gold": gold}


class _Loader(yaml.SafeLoader):
    """Refuses the tag by which lm_eval's files name Python functions."""


def _refuse(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    mark = node.start_mark
    raise UserError(
        f"{mark.name}:{mark.line + 1}: !function names Python code, which is not run; write the field as a template"
    )


_Loader.add_constructor("!function", _refuse)


def _read_yaml(path: Path, including: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in including:
        raise UserError(f"{path}: this file includes itself; remove one `include:`")
    try:
        with path.open(encoding="utf-8") as stream:
            config = yaml.load(stream, _Loader)
    except OSError as error:
        raise UserError(f"--tasks: {path}: {error.strerror}; check the path") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())}); correct the file") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: no task file of lm_eval; it needs fields such as `task:` and `dataset_path:`")
    included = config.pop("include", None)
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included] if included else []:
        merged |= _read_yaml(path.parent / str(name), (*including, path.resolve()))
    return merged | config
