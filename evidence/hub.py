"""Comparisons of a hub dataset as files, for `--source=hub`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from data_modules.rows import RankedComparison, stream_rows
from lit_instruct.files import replacing_files

HH_RLHF = {"training": "Anthropic/hh-rlhf:train", "test": "Anthropic/hh-rlhf:test"}
"""Part -> hub id with its split, as --data.path takes it."""
MOST_CHARACTERS = 1500
"""Of prompt and longest response together: longer rows are left out."""


def write(folder: Path, name: str, parts: Mapping[str, str], counts: Mapping[str, int]) -> None:
    """Writes the first comparisons of hub datasets as <name>_<part>.jsonl, unless they are there.

    Args:
        folder: of the files.
        name: of the data.
        parts: part -> hub id with its split; a file or folder will do as well.
        counts: part -> number of rows.

    Raises:
        UserError: the hub cannot be reached, or the rows are no comparisons.
    """
    wanted = {part: folder / f"{name}_{part}.jsonl" for part in parts}
    if all(path.is_file() for path in wanted.values()):
        return
    with replacing_files(folder) as scratch:
        for part, path in wanted.items():
            lines = [json.dumps(row) + "\n" for row in islice(_short_rows(parts[part]), counts[part])]
            (scratch / path.name).write_text("".join(lines), encoding="utf-8")


def _short_rows(path: str) -> Iterator[dict[str, Any]]:
    for row in stream_rows(path, RankedComparison, on_bad_row="skip"):
        prompt = row.prompt if isinstance(row.prompt, str) else "".join(turn["content"] for turn in row.prompt)
        if len(prompt) + max(map(len, row.responses)) <= MOST_CHARACTERS:
            yield {"prompt": row.prompt, "responses": row.responses, "ranks": row.ranks}
