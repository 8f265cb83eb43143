"""Responses of a stage's model, ranked by a labeler, and prompts chosen from a file; kept between runs."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_instruct.commands.sample import SampleOptions, sample, write_jsonl
from lit_instruct.errors import UserError
from lit_instruct.evaluation.own_run import limited
from lit_instruct.files import digest


def sampled(options: SampleOptions) -> Path:
    """Runs `lit-instruct sample`, unless the file of an earlier call with the same options, model and labeler is there.

    Args:
        options: its `out` names the file, to which a digest of all these is added.

    Returns:
        The file: rows {prompt, responses, ranks, scores}.

    Raises:
        UserError: prompts, model or labeler cannot be used.
    """
    given = asdict(options)
    out = Path(given.pop("out"))
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = [given, Path(options.run), Path(options.data.path), source_of(str(options.labeler))]
    place = out.with_name(f"{out.stem}-{digest(*parts)}{out.suffix}")
    if not place.is_file():
        options.out = str(place)
        sample(options)
    return place


def source_of(function: str) -> Path:
    """Returns the file of the module of an import path: another version of it is another labeler.

    Raises:
        UserError: there is no such module.
    """
    module = function.rpartition(".")[0]
    try:
        found = importlib.util.find_spec(module)
    except ImportError:
        found = None
    if found is None or found.origin is None:
        raise UserError(f"{function}: there is no module {module}; give package.module.function")
    return Path(found.origin)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def chosen_prompts(source: Path, count: int, out: Path) -> Path:
    """Writes `count` prompts, spread evenly over a file whose neighbours may be alike, each only once."""
    from data_modules.rows import PromptRow, read_rows

    rows = list({row.prompt: row for row in read_rows(str(source), PromptRow)}.values())
    out.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(out, [{"prompt": row.prompt, "use_case": row.use_case} for row in limited(rows, count)])
    return out


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Writes JSON lines and returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, rows)
    return path
