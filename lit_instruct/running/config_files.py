"""Checks of config files that jsonargparse leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lit_instruct.errors import UserError
from lit_instruct.files import expand_home

TEXT = "prompt.system"
"""Name of an option that is a text rather than a path or a name."""


def expand_homes(options: Namespace, group: str = "") -> None:
    """Replaces `~` in all texts of options except the system prompt, wherever they were given.

    Args:
        options: of a subcommand, in groups; they are changed.
        group: name of the group, with a dot.
    """
    for name, value in list(vars(options).items()):
        if name != "config":
            options[name] = _with_home(value, f"{group}{name}")


def _with_home(value: Any, name: str) -> Any:
    if isinstance(value, Namespace):
        expand_homes(value, f"{name}.")
    elif isinstance(value, dict):
        return {key: _with_home(item, f"{name}.{key}") for key, item in value.items()}
    elif isinstance(value, list):
        return [_with_home(item, name) for item in value]
    return expand_home(value) if isinstance(value, str) and not name.endswith(TEXT) else value


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
