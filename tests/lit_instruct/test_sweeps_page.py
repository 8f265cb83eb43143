"""docs/sweeps.md: its Optuna script runs two trials on a tiny model, and the command of its W&B sweep is right."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_instruct.commands.plan import stage_options
from tests.lit_instruct.stages.helpers import FLOAT, QUICK, SMALL, Files, run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
SCRIPT, PPO = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.mark.slow
def test_two_trials_of_optuna_resume_one_study(
    tmp_path: Path, tiny_model: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    commands = []

    def command(words: list[str], check: bool) -> None:
        commands.append(words)
        small = [*files.options("sft"), *SMALL["sft"], *QUICK, *FLOAT, f"--model.base={tiny_model}"]
        code = run(*words[1:], *small, "--model.lora.top_layers=2")
        if check and code:
            raise subprocess.CalledProcessError(code, words)

    monkeypatch.setattr(subprocess, "run", command)
    for trials in (1, 2):  # the second call goes on with the study of the first
        values: dict[str, Any] = {}
        exec(SCRIPT.replace("n_trials=20", "n_trials=1"), values)
        assert len(values["study"].trials) == trials
    assert all(trial.state.name == "COMPLETE" for trial in values["study"].trials)
    assert values["study"].best_value == min(trial.value for trial in values["study"].trials) > 0
    assert [f"--run=runs/sweep/trial-{n}" in words for n, words in enumerate(commands)] == [True, True]
    rates = [trial.params["learning_rate"] for trial in values["study"].trials]
    assert [
        f"--model.optimizer.learning_rate={rate}" in words for rate, words in zip(rates, commands, strict=True)
    ] == [True] * 2
    assert (tmp_path / "runs/sweep/trial-1/sft/stage.json").is_file()


def test_the_script_for_ppo_has_options_that_exist() -> None:
    values: dict[str, Any] = {}
    exec(PPO, values)
    words = values["COMMAND"]
    stage_options("ppo", [f"--config={ROOT / words[4]}", *words[5:]])


def test_the_command_of_a_sweep_has_options_that_exist() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    sweep = yaml.safe_load(text)
    *shell, last = sweep["command"]
    assert last == "${args}" and shell[:2] == ["sh", "-c"] and shell[3] == "sh"
    given = [f"--{name}={one.get('min') or one['values'][0]}" for name, one in sweep["parameters"].items()]
    line = shell[2].replace(".venv/bin/lit-instruct", "printf '%s\\n'")
    done = subprocess.run(
        ["sh", "-c", line, "sh", *given], capture_output=True, text=True, check=True, env={"WANDB_RUN_ID": "ab12"}
    )
    stage, subcommand, _, config, _, folder, logger, *options = done.stdout.splitlines()
    assert (stage, subcommand, folder, logger) == ("sft", "fit", "runs/sweep/ab12", "--trainer.logger=WandbLogger")
    found = stage_options("sft", [f"--config={ROOT / config}", *options])
    assert found["model.lora.r"] == 4 and found["model.optimizer.learning_rate"] == 1e-5
    assert shlex.split(shell[2])[0] == ".venv/bin/lit-instruct"
