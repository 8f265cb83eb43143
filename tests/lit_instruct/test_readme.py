"""Every command of README.md and of the PAGES works: with a tiny model and `fast_dev_run`, otherwise as printed."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from lit_instruct.cli import STAGES, main
from lit_instruct.commands.plan import stage_options
from lit_instruct.stages.renamed import RENAMED
from tests.lit_instruct.stages.helpers import QUICK

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPTIONS = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
PAGES = [
    "docs/index.md",
    "docs/options.md",
    "docs/start.md",
    "docs/overview.md",
    "docs/export.md",
    "docs/wandb.md",
    "docs/watching.md",
    "docs/diagnostics.md",
    "docs/coming-from-openrlhf.md",
    "docs/coming-from-llama-factory.md",
    *(f"docs/tutorials/{name}.md" for name in ("demo", "own-data", "people", "verifiable")),
]
"""Pages whose commands are run here, but for the tutorials': test_tutorials.py runs those in their order."""
TEXTS = [README, *((ROOT / page).read_text(encoding="utf-8") for page in PAGES if "tutorials" not in page)]
BLOCKS = re.findall(r"```sh\n(.*?)```", "\n".join(TEXTS), re.S)
LINES = list(dict.fromkeys(line.split("    #")[0] for block in BLOCKS for line in block.splitlines()))
OURS = [line for line in LINES if line.startswith(".venv/bin/lit-instruct")]
MAKES = [line for line in LINES if line.startswith("make")]
STAGE_SMALLER = ["--trainer.fast_dev_run=1", "--model.lora.r=16", "--model.lora.top_layers=2", *QUICK]
SMALLER = {
    **dict.fromkeys(STAGES, STAGE_SMALLER),
    "sample": ["--data.limit", "2", "--sampling.max_new_tokens", "4"],
    "chat": ["--max_new_tokens", "4"],
    "rm score": [],
    "data": [],
    "plan": [],
    "watch": ["--text"],
    "compare": [],
    "export": [],
    "eval": ["--limit=2", "--max_new_tokens=4"],
    "check": ["--recipe=demo"],
}


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "recipes/README.md",
        *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md"))),
    ],
)
def test_commands_of_a_checkout_run_without_activating_its_environment(page: str) -> None:
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    assert [line for line in lines if re.search(r"(?<![\w./-])(lit-instruct|python|torchrun) ", line)] == []


def test_there_are_commands() -> None:
    assert len(OURS) >= 10
    assert len(MAKES) >= 3


@pytest.fixture
def after_demo(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is that of a checkout in which a (tiny) demo has run; returns its run folder."""
    checkout = tmp_path / "checkout"
    (checkout / "runs").mkdir(parents=True)
    (checkout / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(checkout)
    Path("questions.jsonl").write_text('{"query": "1 + 1 is", "choices": ["2", "3"], "gold": 0}\n', encoding="utf-8")
    shutil.copytree(run_folder, "runs/other")
    return run_folder.rename("runs/demo")


@pytest.mark.parametrize("line", OURS)
def test_a_command_of_ours_works(
    line: str, after_demo: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    words = shlex.split(line)[1:]
    command = " ".join(words[:2]) if words[1] == "score" else words[0]
    more = SMALLER[command] if "--help" not in words else []
    if command in STAGES and "--help" not in words:
        base = tiny_model if words[0] == "sft" else after_demo / "sft"
        more = [*more, f"--model.base={base}", "--data.on_long=drop"]
    if "--ckpt_path=last" in words:  # a little more than the little run; a try of one batch continues nothing
        more = [option for option in more if "fast_dev_run" not in option]
        more += [f"--trainer.{name}" for name in ("accumulate_grad_batches=1", "max_epochs=3", "limit_train_batches=1")]
    code = main([*words, *more])
    assert code == 0 or (command == "check" and code == 1)  # a tiny model need not show the demo's figures


def test_a_plan_after_the_demo_is_of_the_recipes_model(after_demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in OURS if " plan " in line]
    assert lines
    for line in lines:
        assert "gpu-24gb" in line
        assert main(shlex.split(line)[1:]) == 0
        assert re.search(r"ppo: meta-llama/Llama-3.1-8B-Instruct\S* \(8\.\d+ billion", capsys.readouterr().out)
    assert main(["plan", "--config", "recipes/gpu-24gb/ppo.yaml", "--gpu=24GB", "--run", str(after_demo)]) == 0
    assert "(0.0" in capsys.readouterr().out  # a run that is given wins: here the tiny model


@pytest.mark.parametrize("line", MAKES)
def test_a_make_command_is_known(line: str) -> None:
    for command in line.split("&&"):
        subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, check=True, capture_output=True)


def test_every_name_in_the_tree_exists_and_every_part_is_in_it() -> None:
    tree = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## The tree")[1].split("```")[1]
    named, parent = set(), ""
    for line in tree.strip().splitlines():
        names, _, text = line.strip().partition("  ")
        if not line.startswith(" "):
            parent = names if names.endswith("/") else ""
        paths = [(parent if line.startswith(" ") else "") + name for name in names.split()]
        inner = re.findall(r"(?<![\w/])[\w-]+\.(?:py|md)", text) if paths[0].endswith("/") else []
        missing = [name for name in [*paths, *(paths[0] + name for name in inner)] if not (ROOT / name).exists()]
        assert missing == []
        named.update(path.rstrip("/") for path in paths)
    parts = [path for top in ("lit_instruct", "data_modules") for path in (ROOT / top).iterdir()]
    parts = [path for path in parts if (path / "__init__.py").exists() or path.suffix == ".py"]
    assert {str(path.relative_to(ROOT)) for path in parts if path.stem != "__init__"} - named == set()


def test_the_readme_is_one_screen_and_compares_as_the_page_does() -> None:
    assert len(README.splitlines()) <= 60
    rows = [line for line in README.split("## How it compares")[1].splitlines() if line.startswith("| ")]
    assert len(rows) > 5
    assert set(rows) <= set((ROOT / "docs/comparison.md").read_text(encoding="utf-8").splitlines())


def test_the_options_page_has_every_old_name() -> None:
    page = OPTIONS.split("## Names of 0.1.0")[1]
    assert dict(re.findall(r"\| `--([\w.]+)` \| `--([\w.]+)` \|", page)) == RENAMED


def test_the_python_of_the_overview_imports() -> None:
    page = (ROOT / "docs/overview.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    imports = "\n".join(line for line in code.splitlines() if "import" in line)
    exec(imports, {})


@pytest.fixture(scope="module")
def known() -> list[str]:
    """The options of all stages, each with a dot after it."""
    return [f"{name}." for stage in STAGES for name in stage_options(stage, ["--data.path=x"])]


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_every_option_exists(page: str, known: list[str]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8").split("## Names of 0.1.0")[0]
    given = set(re.findall(r"--((?:model|data)\.\w[\w.]*\w)", text))
    assert [name for name in given if not any(option.startswith(f"{name}.") for option in known)] == []
