"""`lit-instruct init`: a folder of one's own with the files of a recipe."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import shutil
import tempfile
from pathlib import Path

from lit_instruct.checkout import recipes_folder
from lit_instruct.commands.expected import FILE as EXPECTED
from lit_instruct.errors import UserError
from lit_instruct.files import cannot_write, expand_home

FILES = ("sft.yaml", "rm.yaml", "ppo.yaml", "eval.yaml")
"""Steps of a recipe; one whose models come from elsewhere has only the later ones."""
DATA_SCRIPT = "make_data.py"
"""Writes the data of a recipe that has no folder data/."""
OPENING = re.compile(r"^# Hardware: (.+)$", re.MULTILINE)
LAUNCH = re.compile(r"^# Launch: make [^(]*\((lit-instruct [^)]*)\)$", re.MULTILINE)
"""The command of a recipe's file, first as make and then in brackets as ours."""
README = """# {name}

The files of lit-instruct's recipe {recipe}: yours to edit. Hardware: {hardware}

Run the steps in this folder, one after the other; each starts from what the one before wrote to runs/{name}
(`--run` names another folder):

```sh
{commands}
```

- Whether a step fits your machine: `lit-instruct plan --config ppo.yaml`
- Your own data: `data.path` and `data.validation_path` in the YAML files, or `--data.path=...`; look at it first with
  `lit-instruct data inspect PATH`. Columns of other names: `--data.fields='{{prompt: question, response: answer}}'`.
- Talk to the model of any step: `lit-instruct chat --run runs/{name}/ppo`.
- All options of a step: `lit-instruct ppo fit --help`. One that is given after `--config` counts more than the file.
- A reward function or labeler in this folder, such as `myrewards.py`, is named as `myrewards.brevity`.
- Resume a step that was stopped with `--ckpt_path=last`.
"""


def init(arguments: list[str]) -> int:
    """Writes the folder for the arguments after the word init.

    Raises:
        UserError: there is no such recipe, the folder holds something, or it cannot be written.
    """
    recipes = {path.parent.name: path.parent for path in sorted(recipes_folder().glob("*/ppo.yaml"))}
    parser = argparse.ArgumentParser(
        prog="lit-instruct init",
        description="Writes the files of a recipe into a new folder, to be edited and run there.",
        epilog="recipes:\n" + "\n".join(f"  {name:20} {hardware(folder)}" for name, folder in recipes.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", help="new or empty folder")
    parser.add_argument("--recipe", default="demo", help="one of the recipes below (default: demo)")
    given = parser.parse_args(arguments)
    if given.recipe not in recipes:
        near = difflib.get_close_matches(given.recipe, recipes, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"--recipe={given.recipe}: no such recipe; {hint}there are {', '.join(recipes)}")
    folder = Path(expand_home(given.folder))
    write_folder(folder, recipes[given.recipe])
    print(f"{folder}: the files of the recipe {given.recipe}; README.md there has all commands. Begin with")
    print(f"  cd {shlex.quote(str(folder))} && {commands(recipes[given.recipe])[0]}")
    return 0


def write_folder(folder: Path, recipe: Path) -> None:
    """Writes a recipe's files, its data and a README with the commands into a folder, all or nothing.

    Args:
        folder: new or empty.
        recipe: folder of the recipe.

    Raises:
        UserError: the folder holds something, or cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "is not empty" if folder.is_dir() else "is a file"
            raise UserError(f"{folder}: {what}; name a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            _fill(new, recipe, folder.resolve().name)
            os.replace(new, folder)
    except OSError as error:
        raise cannot_write(folder, error, "FOLDER") from error


def _fill(new: Path, recipe: Path, name: str) -> None:
    own = [path.name for path in sorted(recipe.glob("*.yaml")) if path.name != EXPECTED]
    for file in [*own, *data_script(recipe)]:
        text = (recipe / file).read_text(encoding="utf-8")
        (new / file).write_text(with_own_paths(text, recipe.name, name), encoding="utf-8")
    if (recipe / "data").is_dir():
        (new / "data").mkdir()
        for path in sorted((recipe / "data").iterdir()):
            shutil.copyfile(path, new / "data" / path.name)
    texts = {
        "name": name,
        "recipe": recipe.name,
        "hardware": hardware(recipe),
        "commands": "\n".join(commands(recipe)),
    }
    (new / "README.md").write_text(README.format(**texts), encoding="utf-8")


def with_own_paths(text: str, recipe: str, name: str) -> str:
    """Returns a recipe's file with paths from its own folder and commands without make; the run follows from it too.

    Args:
        text: of the file.
        recipe: its name.
        name: of the folder, and so of the run.
    """
    text = LAUNCH.sub(r"# Launch: \1", text)
    text = text.replace(f"recipes/{recipe}/", "").replace(f" --run runs/{recipe}", "")
    return text.replace(f"runs/{recipe}/", f"runs/{name}/")


def data_script(recipe: Path) -> list[str]:
    """Returns the script that writes a recipe's data, in a list; none where they are in it, or read from the hub."""
    return [] if (recipe / "data").is_dir() or not (recipe / DATA_SCRIPT).is_file() else [DATA_SCRIPT]


def commands(recipe: Path) -> list[str]:
    """Returns the commands of a folder with a recipe's files, in their order."""
    files = [file for file in FILES if (recipe / file).is_file()]
    return [f"python {script}" for script in data_script(recipe)] + [*map(command, files)]


def command(file: str) -> str:
    """Returns the command that runs a file of an initialised folder."""
    stage = file.partition(".")[0]
    return f"lit-instruct {stage}{'' if stage == 'eval' else ' fit'} --config {file}"


def hardware(recipe: Path) -> str:
    """Returns the hardware that the PPO step of a recipe names."""
    found = OPENING.search((recipe / "ppo.yaml").read_text(encoding="utf-8"))
    return found[1] if found is not None else ""
