"""Commands that the user is told to run next, in the way in which the present one was called."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lit_instruct.checkout import in_checkout

FOLLOWS = {"sft": "rm", "rm": "ppo", "ppo": "eval"}
"""Stage -> what comes after it."""
DATA = {"rm": "RANKED_RESPONSES", "ppo": "PROMPTS"}
"""What stands for a data file that only the user knows."""
FIGURES = {
    "sft": (("val/reward", "validation reward"), ("val/loss", "validation loss"), ("train/loss", "training loss")),
    "rm": (("val/pair_accuracy", "pair accuracy"), ("train/pair_accuracy", "pair accuracy in training")),
    "ppo": (("val/reward", "validation reward"), ("ppo/reward", "reward")),
}
"""Stage -> metrics of which the first that was measured is its main figure, with their names for people."""


class Made(NamedTuple):
    """A stage as `make` starts it."""

    recipe: str
    run: str
    options: list[str]
    """Those of ARGS."""


def main_figure(stage: str, metrics: Mapping[str, float]) -> str:
    """Returns a stage's main figure in words, such as "validation loss 1.73"; "" if nothing was measured."""
    found = next(((name, words) for name, words in FIGURES[stage] if name in metrics), None)
    if found is None:
        return ""
    name, words = found
    kl = metrics.get(f"{name.partition('/')[0]}/kl") if stage == "ppo" else None
    return f"{words} {metrics[name]:.3g}" + (f" at a KL of {round(kl, 2) + 0.0:.2f} nats" if kl is not None else "")


def next_command(stage: str, run: Path, arguments: Sequence[str]) -> str:
    """Returns the command of the stage that follows, or that talks to the policy if nothing can be evaluated.

    Args:
        stage: the one that has ended.
        run: folder of the run.
        arguments: the command line after the stage's name.
    """
    made, follows = _made(stage, arguments), FOLLOWS[stage]
    if made is not None:
        return shlex.join(_make(follows, made))
    given = _config(arguments)
    config = given.with_name(f"{follows}.yaml") if given is not None else None
    known = config is not None and config.is_file()
    if follows == "eval" and not known:
        return shlex.join([*program(), "chat", "--run", str(run / stage)])
    words = [*program(), follows, *(["fit"] if follows != "eval" else [])]
    words += ["--config", str(config)] if known else [f"--data.path={DATA[follows]}"]
    return shlex.join([*words, "--run", str(run)])


def resume_command(stage: str, arguments: Sequence[str]) -> str:
    """Returns the command that resumes a stage that was stopped, for a shell.

    Args:
        stage: sft, rm or ppo.
        arguments: the command line after the stage's name.
    """
    kept, words = [], iter(arguments)
    for word in words:
        if word == "--ckpt_path":
            next(words, None)
        elif not word.startswith("--ckpt_path="):
            kept.append(word)
    kept.append("--ckpt_path=last")
    made = _made(stage, kept)
    return shlex.join(_make(stage, made, made.options) if made is not None else [*program(), stage, *kept])


def program() -> list[str]:
    """Returns the words by which this program was called: its name if it is on PATH, else its path from here."""
    called = Path(sys.argv[0])
    if called.name == "cli.py":
        return [_from_here(Path(sys.executable)), "-m", "lit_instruct.cli"]
    if called.name != "lit-instruct":
        return ["lit-instruct"]
    found = shutil.which("lit-instruct")
    on_path = found is not None and called.exists() and Path(found).samefile(called)
    return ["lit-instruct" if on_path else _from_here(called)]


def _from_here(path: Path) -> str:
    here = os.path.relpath(path)
    return str(path) if here.startswith("..") else here


def _made(stage: str, arguments: Sequence[str]) -> Made | None:
    """What our Makefile was given, if it is what started this process."""
    if "MAKELEVEL" not in os.environ or not in_checkout() or len(arguments) < 5:
        return None
    start, options = shlex.join(arguments[:5]), list(arguments[5:])
    found = re.fullmatch(rf"fit --config recipes/([\w.-]+)/{stage}\.yaml --run runs/([\w.-]+)", start)
    return Made(found[1], found[2], options) if found is not None else None


def _make(target: str, made: Made, options: Sequence[str] = ()) -> list[str]:
    words = ["make", target]
    words += [f"RECIPE={made.recipe}"] if made.recipe != "demo" else []
    words += [f"RUN={made.run}"] if made.run != made.recipe else []
    # The shell that make starts splits ARGS into words, and make itself reads $.
    return words + ([f"ARGS={shlex.join(options).replace('$', '$$')}"] if options else [])


def _config(arguments: Sequence[str]) -> Path | None:
    """The first config file of a command line."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    given = [after if word in ("--config", "-c") else word.partition("=")[2] for word, after in pairs if _names(word)]
    return Path(given[0]) if given else None


def _names(word: str) -> bool:
    return word in ("--config", "-c") or word.startswith("--config=")
