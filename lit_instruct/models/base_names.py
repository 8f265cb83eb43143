"""Names under which a base is found again: from another folder, and from another machine where that is possible."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE

from lit_instruct.errors import UserError
from lit_instruct.models.embedded import FOLDER, NAME

SNAPSHOT = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})")
"""A folder in the cache of the Hugging Face hub."""


def lasting_name(base: str) -> tuple[str, str | None]:
    """Returns the name to record for a base, and the commit of a snapshot on the hub.

    The embedded model goes by its name and a snapshot in the hub's cache by its hub id, which every machine resolves;
    another folder by its absolute path, which cannot be taken for a hub id; a hub id stays.

    Args:
        base: name, hub id or folder that was opened.
    """
    folder = Path(base).expanduser()
    if folder.name == FOLDER:
        return NAME, None
    if not folder.is_dir():
        return base, None
    place, cache = Path(os.path.abspath(folder)), Path(os.path.abspath(HF_HUB_CACHE))
    if place.is_relative_to(cache) and (found := SNAPSHOT.fullmatch(place.relative_to(cache).as_posix())):
        return f"{found[1]}/{found[2]}", found[3]
    return str(place), None


def base_of_adapter(config: Path) -> str:
    """Returns the base that an adapter names: a folder, or a hub id with the commit.

    Args:
        config: its adapter_config.json.

    Raises:
        UserError: the file is damaged, names no base or one that is not here, or is of another kind of adapter.
    """
    try:
        saved = json.loads(config.read_text(encoding="utf-8"))
        base, revision, kind = saved["base_model_name_or_path"], saved.get("revision"), saved.get("peft_type", "LORA")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{config}: damaged ({error}); run that stage again, or give another adapter") from error
    if not isinstance(base, str):
        raise UserError(f"{config}: it names no base (base_model_name_or_path); write its hub id or folder there")
    if kind != "LORA":
        raise UserError(
            f"{config}: an adapter of the kind {kind}, and only LoRA is supported; merge it into its base with PEFT's "
            "merge_and_unload and give the folder of the merged model"
        )
    base = _beside_adapter(base, config.parent)
    if base.startswith((".", "/", "~")) and not Path(base).expanduser().is_dir():
        raise UserError(f"{config}: its base {base} is not on this machine; put it there, or write where it is")
    return f"{base}@{revision}" if revision else base


def _beside_adapter(base: str, adapter: Path) -> str:
    """Returns the base that an adapter names by a relative path, as found from the current folder or the adapter's.

    Args:
        base: name in adapter_config.json.
        adapter: folder of the adapter.
    """
    path = Path(base).expanduser()
    if path.is_absolute() or path.is_dir() or not (adapter / path).is_dir():
        return base
    return str(adapter / path)
