"""What is wrong with a command line, before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lit_instruct.command_line.given import Given, Reader, check_config_files
from lit_instruct.command_line.help import HELP, help_text
from lit_instruct.command_line.paths import check_paths
from lit_instruct.command_line.sentences import expected
from lit_instruct.command_line.stored import STAGES, SUBCOMMANDS, Command, Option, known_command, stored_command
from lit_instruct.errors import UserError
from lit_instruct.stages.renamed import refuse_old_names

NULL = ("null", "none", "~", "")
BOOL = ("true", "false", "yes", "no", "on", "off")


def answered(command: str, words: Sequence[str]) -> bool:
    """Checks a command line and returns whether it only asks for help, which is printed.

    If the stored options are not current, only config files are read: the parser checks the rest, later.

    Args:
        command: such as "ppo" or "data inspect".
        words: the command line after it.

    Raises:
        UserError: a mistake in options or config files.
    """
    name, words = _with_subcommand(command, list(words))
    found = stored_command(name)
    if found is None:
        check_config_files(words)
        return False
    if any(word in HELP for word in words):
        print(help_text(found), end="")
        return True
    if name in STAGES:
        raise UserError(f"{name}: say what to do, as `lit-instruct {name} fit`; it has {', '.join(SUBCOMMANDS)}")
    for stage in {*STAGES} & {*name.split()}:
        refuse_old_names(stage, words)
    given = Reader(found).read(words)
    _check_values(found, given)
    if not any(word.startswith("--print_config") for word in words):
        _check_required(found, given)
        check_paths(found, given)
    return False


def given_by(command: str, words: Sequence[str]) -> list[Given]:
    """Returns what a command line gives, by the stored options, current or not; nothing if it cannot be read."""
    name, words = _with_subcommand(command, list(words))
    found = known_command(name)
    try:
        return [] if found is None else Reader(found).read(words)
    except UserError:
        return []


def _with_subcommand(command: str, words: list[str]) -> tuple[str, list[str]]:
    """Moves the subcommand of a stage into its name; config files may stand before it."""
    if command == "plan":
        stage = _planned(words)
        return "plan" if stage is None else f"plan {stage}", words
    if command not in STAGES:
        return command, words
    for number, word in enumerate(words):
        before = words[number - 1] if number else ""
        if word in SUBCOMMANDS:
            return f"{command} {word}", words[:number] + words[number + 1 :]
        if not word.startswith("-") and before not in ("--config", "-c"):
            break
        if word.startswith("--") and word.partition("=")[0] not in ("--config", "--help", "--print_config"):
            raise UserError(f"{word}: options follow the subcommand; write `lit-instruct {command} fit {word}`")
    else:
        return command, words
    stored = stored_command(command)
    if stored is not None:
        raise UserError(f"{command} {word}: {command} has {', '.join(SUBCOMMANDS)}; write `lit-instruct {command} fit`")
    return command, words


def _planned(words: Sequence[str]) -> str | None:
    """The stage that `plan` is asked for, if it says so."""
    for word, following in zip(words, [*words, ""][1:], strict=True):
        flag, equals, value = word.partition("=")
        stage = (value if equals else following).rpartition("/")[2].removesuffix(".yaml")
        if flag in ("--stage", "--config") and stage in STAGES:
            return stage
    return None


def _check_values(command: Command, given: Sequence[Given]) -> None:
    options = {option.name: option for option in command.options}
    for one in given:
        option = options.get(one.name)
        if option is not None and option.values is not None and one.value is not None and not _fits(one.value, option):
            raise UserError(f"{one.shown}: must be {expected(option.values)}")
        if option is not None and one.empty and not _takes_null(option):
            raise UserError(f"{one.shown} is empty; give it a value, or leave the line out")


def _takes_null(option: Option) -> bool:
    """Whether null may be a value, by the type that the help gives; in doubt, and for Lightning's options, it may."""
    if option.name.startswith("trainer."):
        return True
    found = re.search(r"\btype: (.*?)(?:, default: |\)$)", option.help)
    return found is None or any(word in found[1] for word in ("null", "Optional[", "Any"))


def _fits(text: str, option: Option) -> bool:
    """Whether a text may be a value; in doubt it may, and the parser will tell."""
    values = option.values or ()
    if text in values or ("null" in values and text.lower() in NULL):
        return True
    if "bool" in values and text.lower() in BOOL:
        return True
    if {"int", "float"} & set(values):
        try:
            float(text.replace("_", ""))
        except ValueError:
            return False
        return True
    return False


def _check_required(command: Command, given: Sequence[Given]) -> None:
    names = {one.name for one in given}
    for option in command.options:
        groups = {option.name[:end] for end, letter in enumerate(option.name) if letter == "."}
        if option.required and option.name not in names and not names & groups:
            flag = option.flags[0]
            raise UserError(f"{command.name}: {flag} is missing; give {flag}={option.metavar}, or a --config with it")
