"""Hashes of what tokenised data depends on: the bytes of its sources and the code that reads them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from data_modules.reading.folders import kind_of
from data_modules.reading.given import GivenRows
from data_modules.reading.readers import hub_id, local_files
from data_modules.reading.sources import parse_sources
from lit_instruct import prompting
from lit_instruct.errors import DataError

PACKAGES = ("tokenizers", "transformers")
"""Another version of these may tokenise a text differently."""
COMMIT = re.compile("[0-9a-f]{40}")


def content_of(path: str, plain_text: bool, split: str | None = "train") -> list[Any] | None:
    """Identifies the content of all sources of a path, wherever they are stored.

    Args:
        path: as in `data_modules.reading.sources`.
        plain_text: whether plain text files are rows.
        split: of a folder with several splits, if the path names none.

    Returns:
        JSON-able, one entry per source; None if the content of a source is not known before it is read.

    Raises:
        DataError: a file cannot be read.
    """
    found: list[Any] = []
    for source in parse_sources(path):
        if isinstance(source.path, GivenRows):
            found.append([source.path.digest()])
            continue
        hub = hub_id(source.path)
        if hub is not None:
            revision = _hub_revision(hub["name"], hub["revision"])
            if revision is None:
                return None
            found.append([source.path, revision, source.weight])
        else:
            files = local_files(source.path, plain_text, split)
            found.append([[[kind_of(file), _digest(file)] for file in files], source.weight])
    return found


def digests(content: Mapping[str, list[Any]]) -> dict[str, str]:
    """Returns the SHA-256 of each content that `content_of` gives."""
    return {name: hashlib.sha256(json.dumps(found).encode()).hexdigest() for name, found in content.items()}


@cache
def code_version() -> str:
    """Hashes the code that turns files into token ids; data tokenised by another version is not reused."""
    digest = hashlib.sha256()
    for folder in (Path(__file__).parents[1], Path(prompting.__file__).parent):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    for package in PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}".encode())
    return digest.hexdigest()


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise DataError(
            f"{file}: no such file; check the path, or give a hub id with its split, org/name:train"
        ) from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the path and its permissions") from None


def _hub_revision(name: str, revision: str | None) -> str | None:
    """The commit of a hub dataset; None if the hub does not answer (reading the data will then report why)."""
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return HfApi().dataset_info(name, revision=revision, timeout=10).sha
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError):
        return None
