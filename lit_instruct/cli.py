"""The command `lit-instruct`: the first word selects what is imported and run."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import sys
from argparse import ArgumentError
from dataclasses import is_dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import Any

from lit_instruct.checkout import find_packages_of_the_user
from lit_instruct.command_line.check import answered, given_by
from lit_instruct.command_line.library_errors import explained
from lit_instruct.command_line.quiet import quieten
from lit_instruct.command_line.sentences import parse_error
from lit_instruct.command_line.stored import MODULES, STAGES
from lit_instruct.commands.recipe_run import with_run
from lit_instruct.errors import UserError
from lit_instruct.running.interrupts import interrupted, watch
from lit_instruct.terminal import NO_READER, printable, reader_has_gone

COMMANDS = {
    "init": "write the files of a recipe into a folder of your own",
    "sft": "step 1: supervised fine-tuning on demonstrations",
    "rm": "step 2: reward model from ranked comparisons",
    "ppo": "step 3: PPO against the reward model",
    "eval": "compare base, SFT, best-of-n and PPO in a report",
    "watch": "show a run while it trains: in the browser, or with --text in the terminal",
    "compare": "several runs beside each other: curves, figures with intervals, options that differ",
    "check": "compare the figures of a run with those that its recipe expects",
    "sample": "sample and label K responses to each prompt, as ranked comparisons",
    "rank": "serve a page on which people rank responses",
    "iterate": "rounds of comparisons, reward model and PPO, each on responses of the newest policy",
    "chat": "chat with a stage's model",
    "export": "write a stage's model as a folder for plain transformers and PEFT",
    "serve-rollouts": "the command that starts a vLLM server for the rollouts of PPO",
    "plan": "memory, disk and time of a stage before it runs, and changes that would make it fit",
    "data": "inspect PATH: the content of a dataset, and the training examples made from it",
}
TRUST = "--trust_remote_code"
PLACE_ERRORS = (
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)
"""Errors of the operating system about a path that the user gave."""
SUBCOMMANDS = {
    "rm validate": "pair accuracy, calibration and length dependence of a reward model, as HTML and JSON",
    "rm score": "score the rows of a file of any length",
    "rank auto": "rank the responses of a file by a judge, a reward model or a function",
    "rank status": "how many tasks are ranked, and by whom",
    "rank import": "add rankings that were made elsewhere to a store",
    "rank export": "write the rankings for training, or for another program",
    "rank agreement": "how far labelers, and a reward model, agree, as HTML and JSON",
}
HELP = f"""lit-instruct {{{",".join(COMMANDS)}}} ...

{chr(10).join(f"  {name:15}{text}" for name, text in COMMANDS.items())}

{chr(10).join(f"  {name:15}{text}" for name, text in SUBCOMMANDS.items())}

Stages take {{fit,validate,test}}, a recipe and any option of the module, its data and Lightning's Trainer:
  lit-instruct ppo fit --config recipes/demo/ppo.yaml --run runs/demo --model.kl.coef=0.05 --trainer.devices=2
Options of a command: lit-instruct <command> --help; of a stage: lit-instruct <stage> fit --help
A model's own Python code is refused, unless you have read it and add --trust_remote_code.
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    That is 0, 1 if `plan` finds that a stage does not fit or `check` that a figure is not as expected, 2 for a user's
    mistake, 130 after Ctrl-C or SIGTERM, and 141 if the output goes to a pipe whose reader ended, as `| head` does.

    Args:
        arguments: the command line without the program's name; None uses the process's.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if arguments is None:
        watch()
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        if error.errno == errno.EPIPE and reader_has_gone():
            return NO_READER
        if error.errno == errno.ENOSPC:
            return _fail(
                "no space left on the disk; free some and resume with --ckpt_path=last (results are untouched)"
            )
        if error.errno in PLACE_ERRORS and error.filename is not None:
            return _fail(f"{error.filename}: {error.strerror}; check this path and its permissions, or give another")
        return _fail_of_library(error)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            return NO_READER  # rich raises this one
        raise
    except KeyboardInterrupt:
        return interrupted()
    except Exception as error:
        return _fail_of_library(error)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if words[0] == "--version":
        print(version("lit-instruct"))
        return 0
    command, arguments = words[0], _without_trust([_with_home(word) for word in words[1:]])
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, 1)
        advice = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {command!r}; {advice}")
    quieten()
    _share_arenas()
    find_packages_of_the_user()
    if command == "init":
        from lit_instruct.commands.init import init

        return init(arguments)
    if command in ("rm", "rank") and arguments and f"{command} {arguments[0]}" in MODULES:
        command, arguments = f"{command} {arguments[0]}", arguments[1:]
    if command == "data":
        command, arguments = "data inspect", _inspect_arguments(arguments)
    if command in ("export", "serve-rollouts"):
        arguments = _flags(arguments)
    if command == "compare":
        arguments = _compare_arguments(arguments)
    if command == "watch":
        arguments = _with_values(arguments, {"--text": "true"})
    arguments = with_run(command, arguments)
    if answered(command, arguments):
        return 0
    try:
        return _start(command, arguments)
    except ArgumentError as error:
        raise parse_error(str(error), given_by(command, arguments)) from error


def _start(command: str, arguments: list[str]) -> int:
    if command == "plan":
        from lit_instruct.commands.plan import plan

        return plan(arguments)
    if command in STAGES:
        from lit_instruct.running.stage_cli import run_stage

        return run_stage(command, arguments)
    from jsonargparse import auto_cli, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    module, options, function = MODULES[command]
    chosen = import_module(module)
    parsed = auto_cli(
        getattr(chosen, options),
        args=arguments,
        prog=f"lit-instruct {command}",
        as_positional=False,
        exit_on_error=False,
    )
    _expand_homes(parsed)
    found = getattr(chosen, function)(parsed)
    return int(command == "check" and not found)


def _expand_homes(options: Any) -> None:
    """Replaces `~` in the texts of a command's options, which may come from a config file."""
    from lit_instruct.files import expand_home

    for name, value in vars(options).items():
        if is_dataclass(value):
            _expand_homes(value)
        elif isinstance(value, str) and name != "system":
            object.__setattr__(options, name, expand_home(value))  # some groups of options are frozen


def _with_home(word: str) -> str:
    """Replaces `~` at the start of a path, as a shell does, but also after the = of an option and after a comma."""
    if not re.search("(^|[=,])~", word) or re.match("--[a-z.]*system=", word):
        return word
    from lit_instruct.files import expand_home

    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return option + equals + expand_home(value)


def _without_trust(arguments: list[str]) -> list[str]:
    """Moves the option --trust_remote_code, which every command has, to the environment that models are opened in."""
    words = [f"{TRUST}=true" if word == TRUST else word for word in arguments]
    given = [word.partition("=")[2] for word in words if word.startswith(f"{TRUST}=")]
    if given and given[-1] not in ("true", "false"):
        raise UserError(f"{TRUST}={given[-1]}: give true or false")
    if given:
        os.environ["LIT_INSTRUCT_TRUST_REMOTE_CODE"] = given[-1]
    return [word for word in words if not word.startswith(f"{TRUST}=")]


def _flags(arguments: list[str]) -> list[str]:
    """Allows flags without a value, and hyphens; jsonargparse needs a value and underscores."""
    given = [re.sub(r"^--[a-z-]+", lambda name: f"--{name[0][2:].replace('-', '_')}", word) for word in arguments]
    return _with_values(given, {"--merge": "true", "--push_to_hub": "true", "--start": "true"})


def _with_values(arguments: list[str], values: dict[str, str]) -> list[str]:
    """Adds the default value to each option that is given without one."""
    following = [*arguments[1:], "--"]
    return [
        f"{word}={values[word]}" if word in values and after.startswith("--") else word
        for word, after in zip(arguments, following, strict=True)
    ]


def _inspect_arguments(arguments: list[str]) -> list[str]:
    """Removes the word inspect; allows the path without its option and --json without a file."""
    if arguments[:1] in (["-h"], ["--help"]):
        return arguments
    if arguments[:1] != ["inspect"]:
        raise UserError("data: the only subcommand is `lit-instruct data inspect PATH`")
    words = _with_values(arguments[1:], {"--json": "-"})
    return [f"--path={words[0]}", *words[1:]] if words and not words[0].startswith("-") else words


def _compare_arguments(arguments: list[str]) -> list[str]:
    """Makes an option of the runs, which come first; allows --json without a file."""
    words = _with_values(arguments, {"--json": "-"})
    given = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return [f"--runs={json.dumps(words[:given])}", *words[given:]] if given else words


def _fail_of_library(error: Exception) -> int:
    told = explained(error)
    if told is None:
        raise error
    return _fail(str(told))


def _fail(message: str) -> int:
    rank = f"rank {os.environ.get('RANK') or os.environ.get('LOCAL_RANK') or 0}: "
    shown = message if rank == "rank 0: " or message.startswith(rank) else rank + message
    print(f"lit-instruct: error: {printable(shown)}", file=sys.stderr)
    return 2


def _share_arenas() -> None:
    """Makes glibc's threads share two heaps: with one per thread, over a gigabyte of freed memory is not returned.

    M_ARENA_MAX is -8; other C libraries have no such setting.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(-8, 2)


if __name__ == "__main__":
    sys.exit(main())
