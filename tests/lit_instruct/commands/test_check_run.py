"""`lit-instruct check`: each stage of a run beside what its recipe expects, and what each exit code means."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_modules.tables.fingerprints import content_of, digests
from tests.lit_instruct.stages.helpers import run as called

DATA = "recipes/demo/data/"
FILES = {
    "sft": ("demonstrations_train", "demonstrations_validation"),
    "rm": ("ranked_train", "ranked_validation"),
    "ppo": ("prompts_train", "prompts_validation"),
}
METRICS = {"sft": {"val/loss": 1.18}, "rm": {"val/pair_accuracy": 0.7}, "ppo": {"val/reward": 0.5, "val/kl": 3.0}}
EXPECTED = """\
sft: {val/loss: [1, 1.2]}
rm: {val/pair_accuracy: [0.68, 0.8]}
ppo: {val/reward: [0, 1], val/kl: [0, 7]}
eval: {labeler.ppo_minus_sft.mean: [0, 0.6]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe's folder."""
    folder = tmp_path / "recipes" / "mine"
    folder.mkdir(parents=True)
    (folder / "expected.yaml").write_text(EXPECTED)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with all stages, each as expected."""
    folder = tmp_path / "demo"
    for stage, metrics in METRICS.items():
        write(folder, stage, metrics=metrics)
    write(folder, "eval", labeler={"ppo_minus_sft": {"mean": 0.3}})
    return folder


def write(run: Path, stage: str, **fields: Any) -> None:
    """Changes fields of a stage's record."""
    path = run / stage / ("report.json" if stage == "eval" else "stage.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {} if stage == "eval" else {"stage": stage, "options": {"data": data(stage)}}
    before = json.loads(path.read_text()) if path.exists() else own
    path.write_text(json.dumps(before | fields))


def data(stage: str) -> dict[str, Any]:
    """The data of the demo's stage."""
    train, validation = FILES[stage]
    return {"path": f"{DATA}{train}.jsonl", "validation_path": f"{DATA}{validation}.jsonl"}


def check(run: Path, recipe: Path | str | None = None) -> int:
    return called("check", "--run", run, *([] if recipe is None else ["--recipe", recipe]))


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("lit-instruct: error: ") and error.count("\n") == 1
    return error.removeprefix("lit-instruct: error: ").rstrip()


def test_every_figure_as_expected(run: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(run, recipe) == 0
    assert told(capsys) == [
        f"{run} beside {recipe / 'expected.yaml'}",
        "sft: validation loss 1.18, expected 1 to 1.2: as expected",
        "rm: pair accuracy 0.7, expected 0.68 to 0.8: as expected",
        "ppo: validation reward 0.5, expected 0 to 1: as expected",
        "ppo: validation KL in nats 3, expected 0 to 7: as expected",
        "eval: labeler score, PPO minus SFT 0.3, expected 0 to 0.6: as expected",
    ]


def test_a_figure_outside_is_exit_code_1(run: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(run, "rm", metrics={"val/pair_accuracy": 0.61})
    write(run, "ppo", metrics={"val/reward": 0.5, "val/kl": 9.12}, ending="--model.kl.budget=9.0 was reached")
    assert check(run, recipe) == 1
    lines = told(capsys)
    assert lines[2].startswith("rm: pair accuracy 0.61, expected 0.68 to 0.8: below; look at the curves in ")
    assert lines[4].startswith("ppo: validation KL in nats 9.12, expected 0 to 7: above; look at ")
    assert lines[5] == "ppo: --model.kl.budget=9.0 was reached"
    assert sum("as expected" in line for line in lines) == 3


def test_missing_stages_are_named_and_no_fault(run: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage, file in (("ppo", "stage.json"), ("eval", "report.json")):
        (run / stage / file).unlink()
    assert check(run, recipe) == 0
    assert told(capsys)[3:] == ["ppo: not there yet", "eval: not there yet"]


def test_what_was_not_measured_is_not_as_expected(run: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(run, "sft", metrics={"train/loss": 1.0})
    assert check(run, recipe) == 1
    assert told(capsys)[1].startswith("sft: validation loss, expected 1 to 1.2: not measured; look at ")


def test_a_stage_of_which_nothing_is_expected(run: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe / "expected.yaml").write_text("rm: {val/pair_accuracy: [0, 1]}\n")
    (recipe / "sft.yaml").write_text("data: {path: other.jsonl}\n")
    assert check(run, recipe) == 0
    lines = told(capsys)
    assert lines[1] == "sft: there, but the recipe expects no figures of it"
    assert lines[2].startswith("sft: the ranges are for the options of the recipe")  # later stages depend on them


def test_options_that_differ_from_the_recipe_are_named(
    run: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe / "rm.yaml").write_text(
        "model:\n  optimizer: {learning_rate: 1e-3}\n  max_tokens: 1024\n  new: 1\n"
        "data:\n  path: recipes/mine/data/ranked.jsonl\n  limit: 320\n"
    )
    own = {"model": {"optimizer": {"learning_rate": 0.001}, "max_tokens": 512}, "data": {"path": "data/ranked.jsonl"}}
    own["data"]["limit"] = None  # type: ignore[index]
    write(run, "rm", options=own)
    assert check(run, recipe) == 0
    assert told(capsys)[3] == (
        "rm: the ranges are for the options of the recipe, and this run has others: "
        "model.max_tokens is 512, in the recipe 1024; data.limit is null, in the recipe 320"
    )


@pytest.mark.parametrize("name", ["demo", "demo-1"])
def test_the_name_of_a_run_tells_its_recipe(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(run.rename(run.parent / name)) in (0, 1)  # whatever the demo's ranges are
    lines = told(capsys)
    assert lines[0].endswith("recipes/demo/expected.yaml")
    assert any(line.startswith("rm: pair accuracy 0.7, expected ") for line in lines)


def test_a_name_that_means_a_recipe_of_other_data(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(run, "sft", options={"data": {"path": "mine.jsonl"}})
    assert check(run) == 2
    assert refused(capsys) == (
        f"--run={run}: its name means the recipe demo, but its stage sft used other data "
        f"(mine.jsonl, in the recipe {DATA}demonstrations_train.jsonl); name the recipe with --recipe"
    )


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("dem", "--recipe=dem: no such recipe or folder; did you mean demo? the recipes are demo, gpu-"),
        ("paper", "recipes/paper/expected.yaml: there is no such file: no run of this recipe has been measured"),
    ],
)
def test_a_recipe_that_expects_nothing(
    run: Path, recipe: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(run, recipe) == 2
    assert message in refused(capsys)


def test_a_run_that_is_none(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path / "nothing") == 2
    assert "no such run folder" in refused(capsys)
    (tmp_path / "demo-2").mkdir()
    assert check(tmp_path / "demo-2") == 2
    assert "it has none of the stages sft, rm, ppo, eval" in refused(capsys)
    assert check(run.rename(tmp_path / "other")) == 2
    assert "this name tells no recipe; name the recipe with --recipe" in refused(capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged (no JSON object)"),
        ('{"stage": "rm"}', "damaged (metrics is None)"),
        ('{"stage": "rm", "metrics": {"val/pair_accuracy": "0.7"}}', "damaged (metrics is "),
        ('{"stage": "sft", "metrics": {}}', "made by the stage 'sft', not by rm; check --run"),
    ],
)
def test_a_damaged_record(
    run: Path, recipe: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "rm" / "stage.json").write_text(content)
    assert check(run, recipe) == 2
    told = refused(capsys)
    assert told.startswith(f"{run / 'rm' / 'stage.json'}: ") and message in told


def test_a_result_that_is_being_replaced(run: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "rm" / ".ready").mkdir()
    assert check(run, recipe) == 2
    assert "a run is replacing this result" in refused(capsys)


def test_it_is_quick_and_imports_nothing_heavy(run: Path, recipe: Path) -> None:
    code = (
        f"import sys, time; from lit_instruct.cli import main; main(['check', '--run={run}', '--recipe={recipe}']);"
        "heavy = ('torch', 'lightning', 'transformers', 'numpy');"
        "print(time.process_time(), [name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, heavy = out.splitlines()[-1].split(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 1


def test_data_that_changed_since_is_told(
    run: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n')
    content = digests({"path": content_of(str(file), False) or []})
    write(run, "sft", options={"data": {"path": str(file)}}, data={"content": content})
    assert check(run, recipe) == 0
    assert not any("has changed" in line for line in told(capsys))
    for change in (lambda: file.write_text('{"prompt": "a", "response": "c"}\n'), file.unlink):
        change()
        assert check(run, recipe) == 0
        assert told(capsys)[2] == (
            f"sft: {file} has changed since this stage was trained on it; train it again to compare"
        )
