"""`lit-instruct init`: the files of a recipe as a folder of the user's, whose paths are its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_instruct.commands.init import with_own_paths
from tests.lit_instruct.stages.helpers import run

ROOT = Path(__file__).parents[3]
RECIPES = sorted(path.parent.name for path in ROOT.glob("recipes/*/ppo.yaml"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_folder_has_the_recipes_options_and_commands_for_them(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init", "my run", "--recipe", recipe) == 0
    first = "python make_data.py" if recipe == "imdb" else "lit-instruct sft fit --config sft.yaml"
    assert f"cd 'my run' && {first}\n" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "my run")
    for stage in ("ppo", "eval") if recipe == "imdb" else ("sft", "rm", "ppo", "eval"):
        text = Path(f"{stage}.yaml").read_text()
        assert "recipes/" not in text and "make " not in text
        theirs = yaml.safe_load((ROOT / "recipes" / recipe / f"{stage}.yaml").read_text())
        assert yaml.safe_load(text) == yaml.safe_load(yaml.safe_dump(theirs).replace(f"recipes/{recipe}/", ""))
        local = [value for value in _texts(yaml.safe_load(text)) if value.startswith("data/")]
        assert all(Path(value).is_file() for value in local) and (len(local) > 0) == (recipe == "demo")
        words = f"\nlit-instruct {stage}{'' if stage == 'eval' else ' fit'} --config {stage}.yaml\n"
        assert words in Path("README.md").read_text()
        assert f"runs/{recipe}" not in text
    assert not list(tmp_path.glob(".*"))


def test_a_recipe_without_data_brings_the_script_that_writes_them(tmp_path: Path) -> None:
    assert run("init", tmp_path / "mine", "--recipe=imdb") == 0
    found = {path.name for path in (tmp_path / "mine").iterdir()}
    assert found == {"ppo.yaml", "trl.yaml", "eval.yaml", "make_data.py", "README.md"}
    text = (tmp_path / "mine/trl.yaml").read_text()
    assert "\n# Launch: lit-instruct ppo fit --config ppo.yaml --config trl.yaml --run runs/trl\n" in text
    assert (
        "\npython make_data.py\nlit-instruct ppo fit --config ppo.yaml\n" in (tmp_path / "mine/README.md").read_text()
    )


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("place", ["file", "full"])
def test_nothing_of_the_user_is_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    (tmp_path / "full").mkdir()
    for name in ("file", "full/notes.txt"):
        (tmp_path / name).write_text("mine")
    assert run("init", tmp_path / place) == 2
    what = "is a file" if place == "file" else "is not empty"
    assert capsys.readouterr().err == f"lit-instruct: error: {tmp_path / place}: {what}; name a new folder\n"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "notes.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run("init", tmp_path / "empty") == 0
    assert (tmp_path / "empty" / "sft.yaml").is_file()


def test_a_wrong_recipe_lists_them_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", tmp_path / "new", "--recipe=gpu-24") == 2
    error = capsys.readouterr().err
    assert "--recipe=gpu-24: no such recipe; did you mean gpu-24gb? there are demo, " in error
    assert all(name in error for name in RECIPES)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run("init", tmp_path / "file" / "new") == 2
    assert f"{tmp_path}/file/new: cannot write here (" in capsys.readouterr().err


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; from lit_instruct.cli import main\n"
        "try: main(['init', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'lightning', 'transformers', 'jsonargparse')\n"
        "print(time.process_time(), [name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, heavy = out.splitlines()[-1].split(" ", 1)
    assert heavy == "[]" and float(seconds) < 1
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in RECIPES)


def test_launch_lines() -> None:
    text = "# Launch: make sft RECIPE=x\n#   (lit-instruct sft fit --config recipes/x/sft.yaml --run runs/x)\na: b\n"
    assert with_own_paths(text, "x", "mine") == "# Launch: lit-instruct sft fit --config sft.yaml\na: b\n"
