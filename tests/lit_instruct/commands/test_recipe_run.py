"""Which run folder a command uses where --run is not given."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_instruct.commands.recipe_run import with_run
from lit_instruct.evaluation.options import EvalOptions
from tests.lit_instruct.stages.helpers import Files, run, write_rows

PPO = "recipes/gpu-24gb/ppo.yaml"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fit", "--config", PPO], ["fit", "--run=runs/gpu-24gb", "--config", PPO]),
        (["fit", f"--config={PPO}", "--model.iterations=1"], ["fit", "--run=runs/gpu-24gb"]),
        (["fit", "--config", "gentle.yaml", "--config", PPO], ["fit", "--run=runs/gpu-24gb"]),
        (["fit", "--config=/opt/mine/rm.yaml"], ["fit", "--run=runs/mine"]),
        (["fit", "--config=recipes/mine/long.yaml"], ["fit", "--run=runs/mine"]),
        (["--config", "recipes/my recipe/eval.yaml"], ["--run=runs/my recipe", "--config"]),
        (["fit", f"--config={PPO}", "--run=runs/x"], ["fit", f"--config={PPO}", "--run=runs/x"]),
        (["fit", f"--config={PPO}", "--run", "runs/x"], ["fit", f"--config={PPO}", "--run"]),
        (["fit", "-c", PPO], ["fit", "--run=runs/gpu-24gb", "-c", PPO]),
        (["fit", "--config=gentle.yaml"], ["fit", "--config=gentle.yaml"]),
        (["fit", "--config=recipes/demo/expected.yaml"], ["fit", "--config=recipes/demo/expected.yaml"]),
        (["fit", "--config"], ["fit", "--config"]),
        (["fit", "--data.path=ppo.yaml"], ["fit", "--data.path=ppo.yaml"]),
        ([], []),
    ],
)
def test_the_run_follows_from_the_recipe(words: list[str], expected: list[str]) -> None:
    found = with_run("ppo", words)
    assert found[: len(expected)] == expected
    assert [word for word in found if word.startswith("--run")] == [w for w in expected if w.startswith("--run")]
    assert [word for word in found if word not in expected] == [word for word in words if word not in expected]


def test_a_recipe_in_the_current_folder_is_named_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert with_run("sft", ["fit", "--config", "sft.yaml"])[1] == "--run=runs/mine"


def test_other_commands_have_no_recipe() -> None:
    assert with_run("chat", ["--config", PPO]) == ["--config", PPO]


def test_stages_and_eval_agree(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each stage and eval look for what is before them in the recipe's run; `run:` in the file wins."""
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipes" / "mine"
    recipe.mkdir(parents=True)
    for stage in ("rm", "ppo", "eval"):
        (recipe / f"{stage}.yaml").write_text("limit: 1\n" if stage == "eval" else "seed_everything: 1\n")
    data = f"--data.path={files.ppo}"
    for words in (["rm", "fit", data], ["ppo", "fit", data], ["rm", "validate", data]):
        assert run(*words, "--config", recipe / f"{words[0]}.yaml") == 2
        assert "runs/mine" in capsys.readouterr().err
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "a"}])
    assert run("eval", "--config", recipe / "eval.yaml", "--prompts", prompts) == 2
    assert "runs/mine" in capsys.readouterr().err
    (recipe / "rm.yaml").write_text("run: runs/other\n")
    assert run("rm", "fit", data, "--config", recipe / "rm.yaml") == 2
    assert "runs/other" in capsys.readouterr().err


def test_without_a_recipe_it_is_the_demo() -> None:
    assert EvalOptions().run == "runs/demo"
