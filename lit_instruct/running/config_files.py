"""Checks of config files that jsonargparse leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lit_instruct.errors import UserError


def check_groups(config: Namespace, parser: LightningArgumentParser, subcommand: str) -> None:
    """Refuses a value where a config file must have a group of options; jsonargparse ignores it.

    Args:
        config: parsed options of the subcommand; `config` in it lists its config files.
        parser: of a stage.
        subcommand: such as fit.

    Raises:
        UserError: such as "--config=bad.yaml: model is 1, but must be a group of options".
    """
    files = [file for file in config.get("config") or [] if file is not None]
    if not files:
        return
    defaults = parser.parse_args([subcommand, "--data.path=unknown"])[subcommand]
    for file in files:
        given = yaml.safe_load(Path(str(file)).read_text(encoding="utf-8"))
        _check_group(given, defaults, f"--config={file}: ", "")


def _check_group(given: Any, defaults: Namespace, file: str, group: str) -> None:
    if given is None:  # a group whose options are all commented out
        return
    if not isinstance(given, Mapping):
        shown, name = repr(given)[:60], group.removesuffix(".") or "it"
        raise UserError(f"{file}{name} is {shown}, but must be a group of options; write each below it, as name: value")
    for name, value in given.items():
        inner = defaults.get(str(name))
        if isinstance(inner, Namespace) and "class_path" not in inner:
            _check_group(value, inner, file, f"{group}{name}.")
