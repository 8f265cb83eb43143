"""What a command line and its config files give: each option with its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import NoReturn

import yaml

from lit_instruct.checkout import advice_on_config
from lit_instruct.command_line.stored import SUBCOMMANDS, Command, Option
from lit_instruct.errors import UserError

CONFIG = ("--config", "-c")


@dataclass(frozen=True)
class Given:
    """An option that is given.

    Args:
        name: dotted, without hyphens.
        value: its text; None where a config file has a list, a group or null.
        shown: how a message names it, such as --model.kl.coef=x or gentle.yaml:3: model.kl.coef.
        empty: whether a config file has null there.
    """

    name: str
    value: str | None
    shown: str
    empty: bool = False


class Reader:
    """Reads what is given, and refuses what the command has no option for.

    Args:
        command: with all its options.
    """

    def __init__(self, command: Command) -> None:
        self.command = command.name
        self.options = {option.name: option for option in command.options}
        self.flags = {flag: option for option in command.options for flag in option.flags}
        self.groups = {name.rpartition(".")[0] for name in self.options}
        self.groups |= {part.rpartition(".")[0] for part in self.groups} | {"trainer", "model", "data"}

    def read(self, words: Sequence[str]) -> list[Given]:
        """Returns everything that the words and their config files give, in order.

        Raises:
            UserError: an option is unknown or lacks its value, or a config file is missing, damaged or has an unknown
                key.
        """
        found: list[Given] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if not word.startswith("-") or word == "-":
                self._refuse_word(word)
            flag, equals, value = word.partition("=")
            option = self._option(flag)
            if not equals and option.needs_value:
                if not rest or rest[0].startswith("--"):
                    raise UserError(f"{flag}: give a value, as {flag}={option.metavar or 'VALUE'}")
                value = rest.pop(0)
            elif not equals and rest and option.metavar and not rest[0].startswith("-"):
                value = rest.pop(0)
            if flag in CONFIG:
                found += self.read_config(value)
            elif option.name in self.groups and Path(value).exists():
                _content(value, flag)
            name = flag.lstrip("-").removesuffix("+") if flag not in option.flags else option.name
            found.append(Given(name, value, f"{flag}={value}"))
        return found

    def read_config(self, path: str) -> list[Given]:
        """Returns what a config file gives.

        Raises:
            UserError: it is missing or damaged, or has an unknown key.
        """
        node = _content(path, "--config")
        return list(self._in_node(node, "", path)) if node is not None else []

    def _in_node(self, node: yaml.MappingNode, group: str, path: str) -> Iterator[Given]:
        for key, value in node.value:
            name = f"{group}{key.value}"
            shown = f"{path}:{key.start_mark.line + 1}: {name}"
            if not group and name in SUBCOMMANDS:  # of a config that stands before the subcommand
                continue
            inside = isinstance(value, yaml.MappingNode) and name in self.groups and not self._is_open(name)
            if not inside and name not in self.options and name not in self.groups and not self._is_open(name):
                raise UserError(f"{shown}: {self._no_option(name, '')}")
            if inside:
                yield from self._in_node(value, f"{name}.", path)
            elif name in self.groups and not self._is_open(name) and not _may_be_group(value):
                raise UserError(f"{shown} must be a group of options; write each below it, as name: value")
            elif value.tag.endswith(":null"):
                yield Given(name, None, shown, empty=True)
            elif isinstance(value, yaml.ScalarNode):
                yield Given(name, value.value, f"{shown}: {value.value}")
            else:
                yield Given(name, None, shown)

    def _option(self, flag: str) -> Option:
        if flag in self.flags:
            return self.flags[flag]
        name = flag.lstrip("-").removesuffix("+")
        while "." in name:
            name = name.rpartition(".")[0]
            if self._is_open(name):
                return Option(name, (), "VALUE", "")
        if flag.lstrip("-") in self.options:
            raise UserError(f"{flag}: cannot be given alone; give --seed_everything, which seeds everything")
        raise UserError(f"{flag}: {self._no_option(flag.lstrip('-'), '--')}")

    def _names(self) -> list[str]:
        return [option.name for option in self.options.values() if option.flags]

    def _is_open(self, name: str) -> bool:
        return any(self.options[part].open for part in (name, *_above(name)) if part in self.options)

    def _no_option(self, name: str, dashes: str) -> str:
        near = suggestion(name, self._names())
        advice = f"; did you mean {dashes}{near}?" if near else ""
        return f"{self.command} has no such option{advice or f'; lit-instruct {self.command} --help lists all'}"

    def _refuse_word(self, word: str) -> NoReturn:
        name = word.partition("=")[0]
        near = suggestion(name, self._names()) if "=" in word else None
        if near == name or (near and name in near):
            raise UserError(f"{word}: options begin with two hyphens; write --{near}={word.partition('=')[2]}")
        raise UserError(
            f"{word}: {self.command} takes options only, as --name=value; lit-instruct {self.command} --help"
        )


def suggestion(name: str, names: Sequence[str]) -> str | None:
    """Returns the option that was probably meant; None if none is similar.

    An option of another group with the same last word, or a similar one, counts as similar.

    Args:
        name: as given, dotted.
        names: of all options.
    """
    last = name.rpartition(".")[2]
    same = [other for other in names if other.rpartition(".")[2] == last]
    if same:
        return " or --".join(sorted(same, key=lambda other: -SequenceMatcher(None, name, other).ratio())[:2])
    if near := get_close_matches(name, names, 1, 0.75):
        return near[0]
    ends = {end: other for other in reversed(names) for end in ("_".join(other.split(".")[-2:]), other.split(".")[-1])}
    near = get_close_matches(last, list(ends), 1, 0.75)
    return ends[near[0]] if near else None


def check_config_files(words: Sequence[str]) -> None:
    """Checks only that the config files of a command line can be read, for a command whose options are not known.

    Raises:
        UserError: one is missing or damaged, or contains itself.
    """
    for word, following in zip(words, [*words, ""][1:], strict=True):
        flag, equals, value = word.partition("=")
        if flag in CONFIG and (equals or following):
            _content(value if equals else following, flag)


def _content(path: str, flag: str) -> yaml.MappingNode | None:
    """Returns the options in a config file; None if it is empty."""
    file = Path(path)
    if file.is_dir():
        raise UserError(f"{flag}={path}: is a folder; give a file in it, such as {file / 'ppo.yaml'}")
    if not file.is_file():
        raise UserError(f"{flag}={path}: no such file{_similar_file(file)}; {advice_on_config(path)}")
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag}={path}: cannot be read ({error}); check the file") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise UserError(f"{path}:{line}: not valid YAML ({error.problem}); correct the line") from error
    except (yaml.YAMLError, RecursionError) as error:  # characters such as NUL; thousands of brackets
        reason = getattr(error, "reason", "it nests too deep")
        raise UserError(f"{flag}={path}: damaged, or no config file ({reason}); give another") from error
    if node is not None and not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:1: a config file holds options, as name: value; correct it")
    if node is not None:
        _refuse_cycle(node, path, {})
    return node


def _refuse_cycle(node: yaml.Node, path: str, open_nodes: dict[int, bool]) -> None:
    """Refuses a value that contains itself by an alias; jsonargparse would never end.

    Args:
        node: to look into.
        path: of the file.
        open_nodes: id of each node seen -> whether what it holds is still being looked at.
    """
    if open_nodes.get(id(node)):
        raise UserError(f"{path}:{node.start_mark.line + 1}: a value contains itself; write it out without the alias")
    if id(node) in open_nodes or not isinstance(node, yaml.CollectionNode):
        return
    open_nodes[id(node)] = True
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            _refuse_cycle(part, path, open_nodes)
    open_nodes[id(node)] = False


def _may_be_group(value: yaml.Node) -> bool:
    """Whether a value stands for a group of options: null, or the path of another config file."""
    return value.tag.endswith((":null", ":str"))


def _above(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _similar_file(file: Path) -> str:
    """The recipes beside a folder that does not exist, or a similar file."""
    if file.parent.is_dir():
        near = get_close_matches(file.name, [one.name for one in file.parent.iterdir()], 1)
        return f"; did you mean {file.parent / near[0]}?" if near else ""
    recipes = sorted(one.parent.name for one in file.parent.parent.glob(f"*/{file.name}"))
    if not recipes:
        return ""
    near = get_close_matches(file.parent.name, recipes, 1)
    which = f"did you mean {file.parent.parent / near[0] / file.name}?" if near else f"there are {', '.join(recipes)}"
    return f" (no recipe {file.parent.name}); {which}"
