"""Writes options.json from the parsers of all commands: `make options`, after every change of an option."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, auto_cli, capture_parser, set_parsing_settings

from lit_instruct.command_line.stored import (
    FILE,
    MODULES,
    PACKAGE,
    STAGES,
    SUBCOMMANDS,
    Command,
    Group,
    Option,
    Stored,
    as_text,
    fingerprint,
)
from lit_instruct.commands.plan import plan_parser, stage_parser
from lit_instruct.files import write_text
from lit_instruct.running.stage_cli import FURTHER, StageCLI
from lit_instruct.running.stage_cli import STAGES as STAGE_CLASSES

SIMPLE = {int: "int", float: "float", bool: "bool", NoneType: "null"}
SUBCLASSES = re.compile(r"(, known subclasses: )([^)]*)")


def recorded() -> Stored:
    """Returns the options of all commands as their parsers have them."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    commands = [command for stage in STAGES for command in _stage(stage)]
    classes: list[Any] = [one for pair in STAGE_CLASSES.values() for one in pair]
    for name, (module, options, _) in MODULES.items():
        found = getattr(import_module(module), options)
        parser = capture_parser(lambda found=found: auto_cli(found, args=[], as_positional=False))
        commands.append(_command(name, parser, inspect.getdoc(found) or ""))
        classes.append(found)
    commands.append(_command("plan", plan_parser(), plan_parser().description or ""))
    files = {Path(inspect.getfile(one)) for one in [*_with_options(classes), plan_parser, StageCLI]}
    sources = {str(file.relative_to(PACKAGE)): fingerprint(file) for file in sorted(files)}
    versions = {name: version(name) for name in ("lightning", "jsonargparse")}
    return Stored(versions, sources, {command.name: command for command in commands})


def _stage(stage: str) -> Iterator[Command]:
    parser = stage_parser(stage, seed=0)
    chosen = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    about = [Option(name, (), None, chosen.choices[name].description or "") for name in SUBCOMMANDS]
    own = _groups(parser)
    yield Command(stage, "", (*own, Group("subcommands, each with --help", tuple(about))), FURTHER.get(stage))
    for name in SUBCOMMANDS:
        yield _command(f"{stage} {name}", chosen.choices[name], chosen.choices[name].description or "")


def _command(name: str, parser: argparse.ArgumentParser, description: str) -> Command:
    return Command(name, description, _groups(parser), parser.epilog)


def _groups(parser: argparse.ArgumentParser) -> tuple[Group, ...]:
    found = []
    for group in parser._action_groups:
        shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        actions = [action for action in shown if action.option_strings]
        options = [option for action in actions for option in _with_inner(parser, action)]
        if options:
            found.append(Group(group.title or "options", tuple(options)))
    return tuple(found)


def _with_inner(parser: argparse.ArgumentParser, action: argparse.Action) -> Iterator[Option]:
    """The option of an action; after one that is a dataclass or null, also those of the dataclass."""
    option = _option(parser, action)
    yield option
    inner = [one for one in get_args(_hint(action)) if dataclasses.is_dataclass(one)]
    if inner and get_origin(_hint(action)) in (Union, UnionType) and not action.dest.endswith(".help"):
        nested = ArgumentParser()
        nested.add_class_arguments(inner[0], action.dest)
        for group in nested._action_groups:
            for one in group._group_actions:
                if one.dest.startswith(f"{action.dest}.") and not one.dest.endswith(".help"):
                    yield _option(nested, one)


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> Option:
    formatter = parser._get_formatter()
    shown = formatter._expand_help(action) if action.help else ""
    shown = SUBCLASSES.sub(_of_lightning, " ".join(shown.split()))
    metavar = None
    if action.nargs != 0:
        metavar = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
    hint = _hint(action)
    return Option(
        action.dest,
        tuple(flag for flag in action.option_strings if flag.startswith("-")),  # none if it follows another option
        metavar,
        shown,
        None if hint is None else _values(hint),
        hint is not None and not action.dest.endswith(".help") and _is_open(hint),
        metavar is not None and action.nargs != "?" and action.dest != "print_config",
        action.required,
    )


def _hint(action: argparse.Action) -> Any:
    return getattr(action, "_typehint", action.type)


def _of_lightning(found: re.Match[str]) -> str:
    """Without the classes that are ours or happen to be imported."""
    names = [name for name in found[2].split(", ") if name.startswith("lightning.")]
    return found[1] + ", ".join(names) if names else ""


def _values(hint: Any) -> tuple[str, ...] | None:
    """What a hint such as `int | None` allows, in words; None if it allows more than simple values."""
    if hint in SIMPLE:
        return (SIMPLE[hint],)
    if get_origin(hint) is Literal:
        return tuple(map(str, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        parts = [_values(one) for one in get_args(hint)]
        return None if None in parts else tuple(dict.fromkeys(word for part in parts if part for word in part))
    return None


def _is_open(hint: Any) -> bool:
    """Whether a value may be an object of a class that the user names, or have keys of its own."""
    parts = [one for one in get_args(hint) if one is not Ellipsis]
    if get_origin(hint) in (Union, UnionType):
        return any(_is_open(one) for one in parts if not dataclasses.is_dataclass(one))
    if get_origin(hint) is Literal or hint in (str, *SIMPLE):
        return False
    return get_origin(hint) is not list or any(one not in (str, *SIMPLE) for one in parts)


def _with_options(classes: list[Any]) -> set[Any]:
    """Classes and the dataclasses among their arguments."""
    found: set[Any] = set()
    todo = list(classes)
    while todo:
        one = todo.pop()
        if one in found or not inspect.isclass(one):
            continue
        found.add(one)
        found |= {base for base in one.__mro__ if base.__module__.startswith(("lit_instruct.", "data_modules."))}
        hints = get_type_hints(one if dataclasses.is_dataclass(one) else one.__init__)
        todo += [part for hint in hints.values() for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)]
    return found


if __name__ == "__main__":
    write_text(FILE, as_text(recorded()), "options.json")
    sys.stdout.write(f"{FILE}\n")
