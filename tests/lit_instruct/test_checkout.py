"""Recipes, the words that run a stage, and packages of the current folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import lit_instruct
from lit_instruct.checkout import advice_on_config, find_packages_of_the_user, recipes_folder, stage_command
from lit_instruct.cli import main
from lit_instruct.errors import UserError
from lit_instruct.rollouts.reward_functions import function_scorer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with sys.path as a console script has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    return tmp_path


def test_the_recipes_of_a_checkout() -> None:
    assert recipes_folder() == ROOT / "recipes"


@pytest.mark.parametrize(
    ("stage", "run", "words"),
    [
        ("sft", "runs/demo", "make sft RECIPE=demo"),
        ("eval", "runs/mine", "make eval RUN=mine"),
        ("ppo", "elsewhere/mine", "lit-instruct ppo fit --run elsewhere/mine"),
        ("rm", "runs/my run", "lit-instruct rm fit --run 'runs/my run'"),
    ],
)
def test_in_a_checkout_make_runs_a_stage(monkeypatch: pytest.MonkeyPatch, stage: str, run: str, words: str) -> None:
    monkeypatch.chdir(ROOT)
    assert stage_command(stage, run) == words


def test_elsewhere_lit_instruct_does(folder: Path) -> None:
    (folder / "Makefile").write_text("all:\n\techo somebody else's\n")
    (folder / "rm.yaml").touch()
    assert stage_command("sft", "runs/demo") == "lit-instruct sft fit --run runs/demo"
    assert stage_command("rm", "runs/demo") == "lit-instruct rm fit --config rm.yaml --run runs/demo"
    assert stage_command("eval", "runs/a b") == "lit-instruct eval --run 'runs/a b'"


def test_the_current_folder_is_importable(folder: Path) -> None:
    (folder / "myrewards.py").write_text("def brevity(pairs):\n    return [-len(text) for _, text in pairs]\n")
    find_packages_of_the_user()
    assert function_scorer("myrewards.brevity")(["p"], ["four"], [{}]) == [-4.0]
    assert sys.path[-1] == str(folder)  # what is installed comes first
    find_packages_of_the_user()
    assert sys.path.count(str(folder)) == 1


@pytest.mark.parametrize("kind", ["package", "namespace", "module"])
def test_a_package_that_hides_ours_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    (folder / "data_modules").mkdir()
    if kind == "package":
        (folder / "data_modules" / "__init__.py").touch()
    elif kind == "module":
        (folder / "data_modules").rmdir()
        (folder / "data_modules.py").touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == "data_modules"]:
        monkeypatch.delitem(sys.modules, name)
    ours = str(Path(lit_instruct.__file__).parents[1])
    finders = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
    monkeypatch.setattr(sys, "meta_path", finders)
    monkeypatch.setattr(sys, "path", [str(folder), *(path for path in sys.path if path != ours)])
    with pytest.raises(UserError, match=r"data_modules\S* has the name of a package of lit-instruct, which it hides"):
        find_packages_of_the_user()


def test_a_hidden_package_of_the_user_is_named(folder: Path) -> None:
    (folder / "data_modules").mkdir()
    (folder / "data_modules" / "rewards.py").write_text("def brevity(pairs):\n    return []\n")
    find_packages_of_the_user()
    own = folder / "data_modules"
    with pytest.raises(UserError, match=f"{own} has the name of a package of lit-instruct: rename it"):
        function_scorer("data_modules.rewards.brevity")


def test_a_recipe_that_is_not_here_can_be_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "recipes/gpu-24gb/ppo.yaml"]) == 2
    said = "--config=recipes/gpu-24gb/ppo.yaml: no such file; `lit-instruct init my-run --recipe gpu-24gb` writes the"
    assert said in capsys.readouterr().err
    assert advice_on_config("recipes/other/ppo.yaml") == advice_on_config("ppo.yaml") == "check the path"
