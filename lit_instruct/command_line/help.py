"""The help of a command, from its stored options."""

from __future__ import annotations

import argparse

from lit_instruct.command_line.stored import Command, Option

HELP = ("-h", "--help")


def help_text(command: Command) -> str:
    """Returns the help of a command, as wide as the terminal."""
    required = [f"{option.flags[0]} {option.metavar}" for option in command.options if option.required]
    takes = "{fit,validate,test} [options]" if not command.description else "[options]"
    parser = argparse.ArgumentParser(
        prog=f"lit-instruct {command.name}",
        usage=" ".join(["%(prog)s", *required, takes]),
        description=command.description,
        epilog=command.epilog,
        add_help=False,
    )
    for group in command.groups:
        shown = parser.add_argument_group(group.title)
        for option in group.options:
            _add(shown, option)
    return parser.format_help()


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    if not option.flags:  # a subcommand, or an option that follows another
        group.add_argument(option.name, nargs="?", metavar=option.name, help=option.help)
        return
    words = option.help.replace("%", "%%")
    if option.metavar is None:
        group.add_argument(*option.flags, action="store_true", help=words)
    else:
        group.add_argument(*option.flags, metavar=option.metavar, help=words)
