"""What depends on where lit-instruct lies: its recipes, the words that run a stage, and packages of the same name."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

from lit_instruct.errors import UserError

PACKAGE = Path(__file__).parent
OURS = ("lit_instruct", "data_modules")
"""Packages of lit-instruct."""
MAKEFILE = "# lit-instruct:"
"""How our Makefile begins."""


def recipes_folder() -> Path:
    """Returns the folder with a folder per recipe: in the package of a wheel, beside it in a checkout.

    Raises:
        UserError: the installation has none.
    """
    for folder in (PACKAGE / "recipes", PACKAGE.parent / "recipes"):
        if (folder / "demo" / "sft.yaml").is_file():
            return folder
    raise UserError(f"no recipes beside {PACKAGE}; install lit-instruct again")


def advice_on_config(path: str | Path) -> str:
    """Returns what to do about a config file that is not there: a recipe of ours can be written, a path be checked."""
    parts = Path(path).parts
    if len(parts) > 2 and parts[-3] == "recipes" and (recipes_folder() / parts[-2] / parts[-1]).is_file():
        return f"`lit-instruct init my-run --recipe {parts[-2]}` writes the files of this recipe"
    return "check the path"


def stage_command(stage: str, run: str | Path) -> str:
    """Returns the command that runs a stage or eval for a run folder.

    That is make, if the current folder is a checkout and the run one of its runs/; else lit-instruct, with the config
    file of the stage if the current folder has one, as `lit-instruct init` writes it.

    Args:
        stage: sft, rm, ppo or eval.
        run: folder of the run.
    """
    folder = Path(run)
    if in_checkout() and folder.resolve().parent == Path("runs").resolve() and not re.search(r"\s", folder.name):
        kind = "RECIPE" if Path("recipes", folder.name, f"{stage}.yaml").is_file() else "RUN"
        return f"make {stage} {kind}={folder.name}"
    words = ["lit-instruct", stage, *(["fit"] if stage != "eval" else [])]
    words += ["--config", f"{stage}.yaml"] if Path(f"{stage}.yaml").is_file() else []
    return shlex.join([*words, "--run", str(run)])


def in_checkout() -> bool:
    """Returns whether the current folder has our Makefile."""
    try:
        return Path("Makefile").read_text(encoding="utf-8", errors="replace").startswith(MAKEFILE)
    except OSError:
        return False


def find_packages_of_the_user() -> None:
    """Makes packages of the current folder importable, after those that are installed.

    Raises:
        UserError: another package has the name of one of ours and would be imported in its place.
    """
    here = str(Path.cwd())
    if here not in map(str, sys.path) and "" not in sys.path:
        sys.path.append(here)
    for name in OURS:
        spec = importlib.util.find_spec(name)
        place = next(iter(spec.submodule_search_locations or []), spec.origin) if spec is not None else None
        if place is not None and Path(place).resolve() != (PACKAGE.parent / name).resolve():
            raise UserError(f"{place} has the name of a package of lit-instruct, which it hides; rename it")


def hidden_package(import_path: str) -> str:
    """Returns a remark if an import path means a package of the current folder that has the name of one of ours."""
    top = import_path.partition(".")[0]
    own = Path.cwd() / top
    if top not in OURS or own.resolve() == (PACKAGE.parent / top).resolve() or not own.is_dir():
        return ""
    return f"; {own} has the name of a package of lit-instruct: rename it"
