"""The tutorials: their commands in their order, on a tiny model; and what they say of the demo and of the figures."""

from __future__ import annotations

import csv
import io
import json
import re
import runpy
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from docs_site.runs import filled, write_files
from lit_instruct.cli import STAGES, main
from lit_instruct.labeling.store import Store
from tests.lit_instruct.labeling.helpers import rank_all
from tests.lit_instruct.stages.helpers import FLOAT, QUICK

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ITERATE = (DOCS / "iterate.md").read_text(encoding="utf-8")
SHORT = [*FLOAT, *QUICK, "--data.limit=12", "--data.on_long=drop", "--model.lora.r=16", "--model.lora.top_layers=2"]
SHORT += ["--model.quantize=none"]
SHORTER = {
    "sft": ["--trainer.max_epochs=1"],
    "rm": ["--trainer.max_epochs=1"],
    "ppo": [
        "--model.iterations=1",
        "--data.batch_size=4",
        "--model.objective.minibatches=1",
        "--model.sampling.max_new_tokens=4",
        "--trainer.val_check_interval=1",
    ],
    "sample": ["--data.limit=2", "--sampling.max_new_tokens=4"],
    "rank": ["--serve=false", "--data.limit=4", "--sampling.max_new_tokens=4"],
    "chat": ["--max_new_tokens=4"],
    "eval": ["--limit=2", "--max_new_tokens=4", "--best_of=2"],
    "check": ["--recipe=demo"],
}


def text_of(name: str) -> str:
    """The text of a page."""
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def shorter(words: list[str], tiny_model: Path) -> list[str]:
    """A command with a tiny model and little to do."""
    if words[0] in STAGES and words[1] == "fit":
        base = [f"--model.base={tiny_model}"] if words[0] == "sft" else []  # later stages find the run's
        return [*words, *SHORT, *SHORTER[words[0]], *base]
    if words[:2] == ["data", "inspect"]:
        return [*words, f"--base={tiny_model}"]
    of_a_group = words[0] in ("rm", "rank") and not words[1].startswith("--")  # rm score, rank status
    return [*words, *([] if of_a_group else SHORTER.get(words[0], []))]


def labelers_rank(words: list[str]) -> None:
    """After a store was made, two people rank all of it."""
    if words[0] == "rank" and "--run" in words:
        store = Store(Path(words[words.index("--store") + 1]))
        for name in ("Ada", "Grace"):
            rank_all(store, name, lambda task, k: list(range(1, k + 1)))
        store.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "own-data", "people"])
def test_a_tutorial(
    name: str, run_folder: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkout/runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.syspath_prepend(Path.cwd())
    Path("recipes").symlink_to(ROOT / "recipes")
    run_folder.rename("runs/demo")
    page = text_of(f"tutorials/{name}")
    write_files(page, Path.cwd())
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.S) for line in block.splitlines()]
    assert len(lines) >= 5
    for line in lines:
        monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
        command, *words = shlex.split(line)
        if command == "make":
            subprocess.run([command, *words, "-n"], cwd=ROOT, check=True, capture_output=True)
        elif command.endswith("python"):
            runpy.run_path(words[0])
        elif words[0] == "iterate":
            assert line in ITERATE  # whose tests run it
        else:
            code = main(shorter(words, tiny_model))
            assert code == 0 or (words[0] == "check" and code == 1), line
            labelers_rank(words)


@pytest.mark.slow
def test_an_export_opens_as_the_page_says(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", f"--run={run_folder / 'ppo'}", "--to=exported", "--merge"]) == 0
    (code,) = re.findall(r"```python\n(.*?)```", text_of("export"), re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["response"].shape[1] > names["prompt"]["input_ids"].shape[1]


def test_the_demo_ends_as_seed_0_did() -> None:
    report = json.loads((ROOT / "recipes/demo/results/seed-0.json").read_text(encoding="utf-8"))
    page = text_of("tutorials/demo")
    for stage in ("sft", "rm", "ppo"):
        assert f"{stage}: done in {report['seconds'][stage]:.0f} s" in page
    gain = report["labeler"]["ppo_minus_sft"]
    assert f"PPO minus SFT, labeler: {gain['mean']:.2f} ({gain['ci_low']:.2f} to {gain['ci_high']:.2f})" in page
    for title, key in (("labeler score", "labeler"), ("length (tokens)", "length"), ("EOS share", "eos_share")):
        row = next(line for line in page.splitlines() if line.startswith(f"│ {title} "))
        means = [float(cell.split("±")[0]) for cell in row.split("│")[2:-1]]
        assert means == [round(report[key][name]["mean"] + 1e-9, 2) for name in ("base", "sft", "best_of_8", "ppo")]


def test_the_table_of_the_sums_is_that_of_the_result() -> None:
    page, result = text_of("tutorials/verifiable"), json.loads((DOCS / "runs.json").read_text(encoding="utf-8"))
    assert filled(page, result) == page
    right, wrong = (result["runs"][run]["val/labeler"] for run in ("sums", "sums-longest"))
    assert right[-1][1] > right[0][1] > wrong[-1][1]  # what the pages say of the two
    assert result["runs"]["sums-longest"]["ppo/reward"][-1][1] > result["runs"]["sums-longest"]["ppo/reward"][0][1]


def test_every_figure_of_the_logs_is_explained() -> None:
    page = text_of("diagnostics")
    code = [
        path.read_text(encoding="utf-8")
        for top in ("ppo", "stages")
        for path in (ROOT / "lit_instruct" / top).glob("*.py")
    ]
    logged = set(re.findall(r'"((?:ppo|loss|train|val)/[a-z_]+)"', "\n".join(code)))
    assert len(logged) > 20
    assert [name for name in sorted(logged) if f"`{name}`" not in page] == []


def test_the_figures_of_a_run_are_explained(trained: Path) -> None:
    page = text_of("diagnostics")
    for stage in STAGES:
        with (trained / stage / "logs/metrics.csv").open(newline="") as file:
            names = next(csv.reader(file))
        unknown = [name for name in names if name not in ("epoch", "step") and f"`{name}`" not in page]
        assert unknown == []
