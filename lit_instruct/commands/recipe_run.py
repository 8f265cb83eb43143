"""The run folder that follows from a recipe: recipes/gpu-24gb/ppo.yaml -> runs/gpu-24gb."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_instruct.commands.expected import FILE as EXPECTED

WITH_RUN = ("sft", "rm", "ppo", "eval", "plan")
"""Commands whose --run is a run folder, and whose --config is a recipe's."""
FILES = ("sft.yaml", "rm.yaml", "ppo.yaml", "eval.yaml")
"""Files of a recipe."""
OPTION = ("--config", "-c")
SUBCOMMANDS = ("fit", "validate", "test")


def with_run(command: str, words: Sequence[str]) -> list[str]:
    """Adds --run=runs/<folder of the recipe> to the arguments of a command, unless they have --run.

    It is put before the config files: a `run:` in one of them counts, as for every option.

    Args:
        command: such as ppo.
        words: its arguments, such as ["fit", "--config", "recipes/gpu-24gb/ppo.yaml"].
    """
    given = any(word == "--run" or word.startswith("--run=") for word in words)
    name = next((found for found in map(recipe_of, configs_of(words)) if found), None)
    if command not in WITH_RUN or given or name is None:
        return list(words)
    options = next(i for i, word in enumerate(words) if word.startswith("-"))
    at = next((i + 1 for i, word in enumerate(words) if word in SUBCOMMANDS), options)
    return [*words[:at], f"--run=runs/{name}", *words[at:]]


def configs_of(words: Sequence[str]) -> list[str]:
    """Returns the values of --config, in order."""
    pairs = zip(words, [*words, ""][1:], strict=False)
    given = [after if word in OPTION else word.partition("=")[2] for word, after in pairs if _is_config(word)]
    return [value for value in given if value]


def _is_config(word: str) -> bool:
    return word in OPTION or word.startswith("--config=")


def recipe_of(config: str) -> str | None:
    """Returns the name of a recipe's folder; None for a file that is no config of a recipe, such as gentle.yaml."""
    path = Path(config).absolute()
    if path.name == EXPECTED:
        return None
    if path.name in FILES or (path.parent.parent.name == "recipes" and path.suffix == ".yaml"):
        return path.parent.name or None
    return None
