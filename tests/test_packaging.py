"""What is shipped (wheel, pins), and what the Makefile does with stand-ins for Python and lit-instruct."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
STAGES = ["sft", "rm", "ppo"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy (setuptools leaves a build folder behind) without the network."""
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ["lit_instruct", "data_modules", "recipes", "tests"]:
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ["pyproject.toml", "setup.py", "LICENSE", "README.md"]:
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*command, "--wheel-dir", str(source / "out"), str(source)], check=True)
    return zipfile.ZipFile(next((source / "out").glob("*.whl")))


def test_wheel_holds_both_packages_whole(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for package in ["lit_instruct", "data_modules"]:
        files = [path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*") if path.is_file()]
        assert {name for name in files if name.endswith((".py", ".jinja", ".js", ".css"))} <= names
    assert "lit_instruct/__init__.py" in names and "data_modules/__init__.py" in names
    assert "lit_instruct/evaluation/report.html.jinja" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lit_instruct", "data_modules"}


def test_wheel_has_entry_point_and_license(wheel: zipfile.ZipFile) -> None:
    info = f"lit_instruct-{PROJECT['version']}.dist-info"
    assert "lit-instruct = lit_instruct.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert "Apache License" in wheel.read(f"{info}/licenses/LICENSE").decode()


def test_wheel_ships_the_recipes_and_their_data_but_no_results(wheel: zipfile.ZipFile) -> None:
    recipes = "lit_instruct/recipes/"
    shipped = {name.removeprefix(recipes) for name in wheel.namelist() if name.startswith(recipes)}
    files = [path for pattern in ("*/*.yaml", "*/data/*", "imdb/*.py") for path in (ROOT / "recipes").glob(pattern)]
    unused = "demo/data/pretraining.txt"  # by the recipes
    assert shipped == {path.relative_to(ROOT / "recipes").as_posix() for path in files} - {unused}
    assert "demo/data/ranked_train.jsonl" in shipped
    assert Path(str(wheel.filename)).stat().st_size < 1.2e6


@pytest.mark.slow
def test_an_installed_wheel_works_without_a_checkout(wheel: zipfile.ZipFile, tiny_model: Path, tmp_path: Path) -> None:
    """The commands of an initialised folder, with a tiny base and a labeler that lies in the folder."""
    site, empty = tmp_path / "site", tmp_path / "empty"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
    subprocess.run([*install, str(wheel.filename)], check=True)
    empty.mkdir()
    env = {name: value for name, value in os.environ.items() if name != "LIT_INSTRUCT_CACHE"}
    env |= {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def lit_instruct(folder: Path, *words: str, code: int = 0) -> str:
        command = [sys.executable, str(site / "bin" / "lit-instruct"), *words]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr[-2000:]
        assert "`make" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "lit-instruct sft fit --config sft.yaml" in lit_instruct(empty, "init", "mine")
    mine = empty / "mine"
    code = "import lit_instruct, data_modules; print(lit_instruct.__file__, data_modules.__file__)"
    asked = [sys.executable, "-c", code]
    where = subprocess.run(asked, cwd=mine, env=env, capture_output=True, text=True, check=True).stdout.split()
    assert all(Path(place).is_relative_to(site) for place in where)
    assert "fits" in lit_instruct(mine, "plan", "--config", "ppo.yaml")
    assert "comparisons" in lit_instruct(mine, "data", "inspect", "data/ranked_train.jsonl", f"--base={tiny_model}")
    rm = ["rm", "fit", "--config", "rm.yaml"]
    missing = lit_instruct(mine, *rm, code=2)
    assert "run `lit-instruct sft fit --config sft.yaml --run runs/mine` first" in missing
    small = [f"--model.base={tiny_model}", "--model.lora.top_layers=1", "--trainer.max_steps=1", "--data.on_long=drop"]
    lit_instruct(mine, "sft", "fit", "--config", "sft.yaml", *small)
    assert (mine / "runs" / "mine" / "sft" / "adapter_model.safetensors").is_file()
    (mine / "myrewards.py").write_text("def brevity(pairs):\n    return [-len(text) for _, text in pairs]\n")
    sample = ["sample", "--run=runs/mine/sft", "--data.path=data/prompts_validation.jsonl", "--data.limit=2", "--k=2"]
    lit_instruct(mine, *sample, "--sampling.max_new_tokens=4", "--labeler=myrewards.brevity", "--out=ranked.jsonl")
    assert len((mine / "ranked.jsonl").read_text().splitlines()) >= 1


def test_the_version_is_that_of_the_changelog_and_the_citation() -> None:
    newest, date = re.findall(r"^## ([0-9.]+) - ([0-9-]+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[
        0
    ]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["version"] == newest == citation["version"]
    assert citation["date-released"].isoformat() == date


def _requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + [line for name in extras if name != "wandb" for line in extras[name]]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != "lit-instruct"]


def test_every_import_is_declared() -> None:
    distributions = importlib.metadata.packages_distributions()
    declared = {canonicalize_name(requirement.name) for requirement in _requirements()}
    for path in [*ROOT.glob("lit_instruct/**/*.py"), *ROOT.glob("data_modules/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names):
                if top not in {"lit_instruct", "data_modules", "tests"}:
                    owners = {canonicalize_name(name) for name in distributions.get(top, [top])}
                    assert owners & declared, f"{path.relative_to(ROOT)} imports {top}, pyproject.toml lacks it"


def test_constraints_pin_every_dependency_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    assert not any("+" in version for version in versions.values())  # a local build is only on one index
    for requirement in _requirements():
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


# --- the Makefile ---

# Stands in for python3: makes a .venv that holds this very script, installs nothing, logs what it is asked.
PYTHON = """#!/bin/sh
echo "$*" >> log
case "$*" in
  "-c "*) exec "{real}" "$@" ;;
  "-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp lit-instruct .venv/bin/ ;;
  *" install "*) test ! -e offline ;;
esac
"""
LIT_INSTRUCT = '#!/bin/sh\nfor word; do echo "[$word]"; done\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone with the real Makefile, a demo and another recipe, and no .venv."""
    folder = tmp_path / "clone"
    for recipe in ["demo", "other"]:
        (folder / "recipes" / recipe).mkdir(parents=True)
        (folder / "recipes" / recipe / "sft.yaml").touch()
    for name in ["Makefile", "pyproject.toml", "constraints.txt"]:
        shutil.copy(ROOT / name, folder)
    for name, text in [("python", PYTHON.replace("{real}", sys.executable)), ("lit-instruct", LIT_INSTRUCT)]:
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def _make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "log").write_text("")
    ignored = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}  # of a `make test` around this one
    env = {name: value for name, value in os.environ.items() if name not in ignored}
    command = ["make", "PYTHON=./python", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def _asked(folder: Path) -> list[str]:
    """What Python was asked to do, as far as it changes .venv."""
    log = (folder / "log").read_text().splitlines()
    return [line for line in log if " install " in line or "venv" in line.split()[:2]]


def test_setup_installs_torch_alone_first_and_then_nothing_again(checkout: Path) -> None:
    assert _make(checkout, "setup").returncode == 0
    venv, torch, rest = _asked(checkout)
    assert venv == "-m venv --clear .venv"
    assert re.fullmatch(r".* install --quiet torch==[0-9.]+", torch)
    assert rest.endswith("install --quiet -c constraints.txt -e .[dev,quantization]")
    assert "Nothing to be done" in _make(checkout, "setup").stdout
    assert _asked(checkout) == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_pin_installs_into_the_same_venv(checkout: Path, name: str) -> None:
    _make(checkout, "setup")
    stamp = checkout / ".venv" / ".lit-instruct-installed"
    os.utime(checkout / name, (stamp.stat().st_mtime + 5,) * 2)
    _make(checkout, "setup")
    assert len(_asked(checkout)) == 2 and not any("venv --clear" in line for line in _asked(checkout))


def test_a_missing_stamp_installs_into_the_venv_that_is_there(checkout: Path) -> None:
    _make(checkout, "setup")
    (checkout / ".venv" / ".lit-instruct-installed").unlink()
    _make(checkout, "setup")
    assert len(_asked(checkout)) == 2


def test_an_installation_cut_off_starts_afresh(checkout: Path) -> None:
    (checkout / "offline").touch()
    assert _make(checkout, "sft").returncode == 2
    (checkout / "offline").unlink()
    assert _make(checkout, "sft").returncode == 0
    assert _asked(checkout)[0] == "-m venv --clear .venv" and len(_asked(checkout)) == 3
    _make(checkout, "sft")
    assert _asked(checkout) == []


def test_a_moved_checkout_and_a_lost_python_start_afresh(checkout: Path, tmp_path: Path) -> None:
    _make(checkout, "setup")
    moved = tmp_path / "moved"
    checkout.rename(moved)
    _make(moved, "setup")
    assert _asked(moved)[0] == "-m venv --clear .venv"
    (moved / ".venv" / "bin" / "python").unlink()
    _make(moved, "setup")
    assert _asked(moved)[0] == "-m venv --clear .venv"


def test_an_old_python_is_refused(checkout: Path) -> None:
    (checkout / "python").write_text("#!/bin/sh\necho 'needs Python 3.11 or newer' >&2; exit 1\n")
    done = _make(checkout, "setup")
    assert done.returncode == 2 and "3.11" in done.stderr and not (checkout / ".venv").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_recipe_run_and_args_reach_every_stage_as_they_were_typed(checkout: Path, stage: str) -> None:
    words = ["RECIPE=other", "RUN=my run", """ARGS=--a="b c" --d='e "f"' --g=[1,2]"""]
    printed = _make(checkout, "-s", stage, *words).stdout.splitlines()
    expected = [stage, "fit", "--config", f"recipes/other/{stage}.yaml", "--run", "runs/my run"]
    assert printed[-len(expected) - 3 :] == [f"[{word}]" for word in [*expected, "--a=b c", '--d=e "f"', "--g=[1,2]"]]


def test_a_plan_is_of_the_run_that_the_stages_would_write(checkout: Path) -> None:
    lines = [
        line for line in _make(checkout, "-n", "plan", "RUN=other").stdout.splitlines() if "lit-instruct plan" in line
    ]
    assert len(lines) == 3 and all('--run "runs/other"' in line for line in lines)


def test_demo_runs_the_four_in_order_even_in_parallel(checkout: Path) -> None:
    _make(checkout, "setup")
    done = _make(checkout, "-n", "-j4", "demo", "ARGS=--x=1", "EVAL_ARGS=--y=2")
    run = '--run "runs/demo"'
    assert done.stdout.splitlines() == [
        ".venv/bin/python recipes/how_long.py demo",
        *(f".venv/bin/lit-instruct {s} fit --config recipes/demo/{s}.yaml {run} --x=1" for s in STAGES),
        f".venv/bin/lit-instruct eval --config recipes/demo/eval.yaml {run} --y=2",
    ]


@pytest.mark.parametrize("target", [*STAGES, "eval", "demo"])
def test_an_unknown_recipe_is_one_line_before_anything_is_installed(checkout: Path, target: str) -> None:
    done = _make(checkout, target, "RECIPE=dmo")
    assert done.returncode == 2 and not (checkout / ".venv").exists()
    assert len(done.stderr.splitlines()) == 1
    assert 'unknown RECIPE "dmo"; the recipes are: demo other' in done.stderr


def test_help_is_the_default_and_lists_every_target(checkout: Path) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = next(line for line in text.splitlines() if line.startswith(".PHONY:")).split()[1:]
    done = _make(checkout)
    listed = re.findall(r"^  ([a-z-]+) +\S", done.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(set(phony) - {"FORCE"}) and done.stdout == _make(checkout, "help").stdout
    assert not (checkout / ".venv").exists()


def test_every_target_brings_the_venv_up_to_date(checkout: Path) -> None:
    for target in ["setup", *STAGES, "eval", "demo", "demo-data", "test", "test-slow", "test-all", "check"]:
        assert "pip --disable-pip-version-check install" in _make(checkout, "-n", target).stdout, target


def test_clean_keeps_runs_and_venv(checkout: Path) -> None:
    _make(checkout, "setup")
    for name in [
        "runs/demo/sft",
        "build",
        "recipes/demo/__pycache__",
        "lit_instruct",
        "data_modules",
        "benchmarks",
        "docs_site",
        "evidence",
        "tests",
    ]:
        (checkout / name).mkdir(parents=True)
    assert _make(checkout, "clean").returncode == 0
    assert (checkout / "runs/demo/sft").is_dir() and (checkout / ".venv/bin/python").is_file()
    assert not (checkout / "build").exists() and not (checkout / "recipes/demo/__pycache__").exists()
