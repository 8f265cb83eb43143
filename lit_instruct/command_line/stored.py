"""The options of every command as `options.json` has them, so that help and mistakes need not wait for PyTorch.

`make options` writes that file from the parsers themselves (`record.py`); a test keeps the two equal.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("options.json")
PACKAGE = Path(__file__).parents[2]
STAGES = ("sft", "rm", "ppo")
SUBCOMMANDS = ("fit", "validate", "test")
MODULES = {
    "eval": ("lit_instruct.evaluation.compare", "EvalOptions", "evaluate"),
    "check": ("lit_instruct.commands.check_run", "CheckOptions", "check"),
    "sample": ("lit_instruct.commands.sample", "SampleOptions", "sample"),
    "chat": ("lit_instruct.commands.chat", "ChatOptions", "chat"),
    "export": ("lit_instruct.exporting.export", "ExportOptions", "export"),
    "rm score": ("lit_instruct.commands.score", "ScoreOptions", "score_file"),
    "rank": ("lit_instruct.commands.rank", "RankOptions", "rank"),
    "rank auto": ("lit_instruct.commands.rank_auto", "AutoOptions", "rank_auto"),
    "rank status": ("lit_instruct.commands.rankings", "StatusOptions", "show_status"),
    "rank import": ("lit_instruct.commands.rankings", "ImportOptions", "import_rankings"),
    "rank export": ("lit_instruct.commands.rankings", "ExportOptions", "export"),
    "rank agreement": ("lit_instruct.commands.agreement", "AgreementOptions", "write_agreement"),
    "compare": ("lit_instruct.run_views.compare", "CompareOptions", "compare"),
    "watch": ("lit_instruct.run_views.watch", "WatchOptions", "watch"),
    "serve-rollouts": ("lit_instruct.commands.serve_rollouts", "ServeRolloutsOptions", "serve_rollouts"),
    "iterate": ("lit_instruct.iterating.loop", "IterateOptions", "iterate"),
    "data inspect": ("lit_instruct.inspection.inspect", "InspectOptions", "inspect"),
}
"""Commands beside the stages and plan: the module, its options and its function."""


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Args:
        name: dotted, without hyphens, such as model.kl.coef.
        flags: as it is written on the command line; one that ends in + adds to a list; none if it follows another.
        metavar: stands for its value in the help; None if it takes none.
        help: what it does, with its type and default.
        values: what it may be, if that is simple: int, float, bool, null and the words to choose from; else None.
        open: whether names below it are options of a class that the user chooses.
        needs_value: whether a value must follow.
        required: whether it must be given.
    """

    name: str
    flags: tuple[str, ...]
    metavar: str | None
    help: str
    values: tuple[str, ...] | None = None
    open: bool = False
    needs_value: bool = True
    required: bool = False


@dataclass(frozen=True)
class Group:
    """Options under one title of the help."""

    title: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Command:
    """All options of a command, such as "ppo fit"."""

    name: str
    description: str
    groups: tuple[Group, ...]
    epilog: str | None = None

    @property
    def options(self) -> list[Option]:
        """Its options."""
        return [option for group in self.groups for option in group.options]


@dataclass
class Stored:
    """The content of options.json."""

    versions: dict[str, str]
    sources: dict[str, str]
    """File -> fingerprint of the lines that define options."""
    commands: dict[str, Command] = field(default_factory=dict)


def stored_command(name: str) -> Command | None:
    """Returns a command's options; None if options.json was written for other versions or before a change of options.

    Args:
        name: such as "ppo fit" or "eval"; "plan ppo" has the stage's options too.
    """
    found = stored()
    if any(version(package) != other for package, other in found.versions.items()):
        return None
    if any(fingerprint(PACKAGE / file) != other for file, other in found.sources.items()):
        return None
    return known_command(name)


def known_command(name: str) -> Command | None:
    """Returns a command's options as options.json has them, current or not; None for a command that it does not have.

    Args:
        name: as for `stored_command`.
    """
    found = stored()
    if name.startswith("plan "):
        own, stage = found.commands["plan"], found.commands[f"{name.removeprefix('plan ')} fit"]
        taken = {option.name for option in own.options}
        kept = [[replace(o, required=False) for o in group.options if o.name not in taken] for group in stage.groups]
        groups = [Group(group.title, tuple(options)) for group, options in zip(stage.groups, kept, strict=True)]
        return replace(own, groups=(*own.groups, *groups))
    return found.commands.get(name)


@cache
def stored() -> Stored:
    """Returns what options.json says, whether it is current or not."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    groups = {name: Group(group["title"], tuple(_options(group))) for name, group in content["groups"].items()}
    commands = {
        name: Command(name, one["description"], tuple(groups[group] for group in one["groups"]), one["epilog"])
        for name, one in content["commands"].items()
    }
    return Stored(content["versions"], content["sources"], commands)


def fingerprint(file: Path) -> str:
    """Returns a fingerprint of the lines of a Python file in which options can be defined or explained."""
    if not file.is_file():
        return "missing"
    lines = re.findall(r"^ +\w+: .+$|^.*\"--[a-z].*$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def as_text(found: Stored) -> str:
    """Returns the content of options.json: each group of options once, one option a line, and each command's groups."""
    groups: dict[str, Group] = {}
    commands = {}
    for command in found.commands.values():
        names = [_name_of(group, command.name, groups) for group in command.groups]
        commands[command.name] = {"description": command.description, "groups": names, "epilog": command.epilog}
    head = json.dumps({"versions": found.versions, "sources": found.sources, "commands": commands}, indent=1)
    lines = {name: ",\n".join(map(_line, group.options)) for name, group in groups.items()}
    parts = [
        f'{json.dumps(name)}: {{"title": {json.dumps(groups[name].title)}, "options": [\n{text}\n]}}'
        for name, text in lines.items()
    ]
    return head.removesuffix("\n}") + ',\n"groups": {\n' + ",\n".join(parts) + "\n}\n}\n"


def _name_of(group: Group, command: str, groups: dict[str, Group]) -> str:
    """The name of a group in the file: equal groups of several commands are one."""
    for name, other in groups.items():
        if other == group:
            return name
    name = f"{command}: {group.title}"
    groups[name] = group
    return name


def _line(option: Option) -> str:
    shown = {name: getattr(option, name) for name in ("name", "flags", "metavar", "help")}
    defaults = {"values": None, "open": False, "needs_value": True, "required": False}
    more = {name: getattr(option, name) for name, usual in defaults.items() if getattr(option, name) != usual}
    return json.dumps(shown | more, ensure_ascii=False)


def _options(group: dict[str, Any]) -> Iterator[Option]:
    for one in group["options"]:
        values = one.get("values")
        yield Option(**one | {"flags": tuple(one["flags"]), "values": None if values is None else tuple(values)})
