"""What the user is told to run next, from make, from PATH and from a path."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.running.next_command import main_figure, next_command, program, resume_command
from tests.lit_instruct.stages.helpers import QUICK, Files, fit, run

MAKEFILE = "# lit-instruct: every target\n"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with our Makefile."""
    (tmp_path / "Makefile").write_text(MAKEFILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAKELEVEL", "1")
    monkeypatch.setattr("sys.argv", ["lit-instruct"])
    return tmp_path


def by_make(stage: str, recipe: str = "demo", run_name: str = "demo", *options: str) -> list[str]:
    return ["fit", "--config", f"recipes/{recipe}/{stage}.yaml", "--run", f"runs/{run_name}", *options]


@pytest.mark.usefixtures("checkout")
def test_make_leads_to_make() -> None:
    run_folder = Path("runs/x")
    assert next_command("sft", run_folder, by_make("sft")) == "make rm"
    assert (
        next_command("rm", run_folder, by_make("rm", "gpu-8gb", "gpu-8gb", "--data.limit=3"))
        == "make ppo RECIPE=gpu-8gb"
    )
    assert next_command("ppo", run_folder, by_make("ppo", "demo", "try")) == "make eval RUN=try"
    assert next_command("sft", run_folder, by_make("sft", "paper", "try")) == "make rm RECIPE=paper RUN=try"


@pytest.mark.usefixtures("checkout")
def test_make_resumes_by_make_with_its_options() -> None:
    options = ["--data.path=a b.jsonl", "--model.prompt.system=It's $5", "--ckpt_path=last"]
    told = resume_command("ppo", by_make("ppo", "demo", "try", *options))
    words = shlex.split(told)
    assert words[:3] == ["make", "ppo", "RUN=try"]
    name, _, value = words[3].partition("=")
    # make replaces $$ by $, and its shell splits the words
    assert (name, shlex.split(value.replace("$$", "$"))) == ("ARGS", options)


def test_without_make_or_in_another_folder(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAKELEVEL")
    assert resume_command("sft", by_make("sft")).startswith("lit-instruct sft fit --config recipes/demo/sft.yaml")
    monkeypatch.setenv("MAKELEVEL", "1")
    (checkout / "Makefile").write_text("all:\n\tlit-instruct sft fit\n")  # the user's own
    assert next_command("rm", Path("runs/x"), by_make("rm")).startswith("lit-instruct ppo fit ")


def test_the_config_beside_the_present_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["lit-instruct"])
    for stage in ("sft", "rm", "eval"):
        (tmp_path / f"{stage}.yaml").touch()
    folder = Path("my runs/one")
    told = next_command("sft", folder, ["fit", f"--config={tmp_path}/sft.yaml"])
    assert told == f"lit-instruct rm fit --config {tmp_path}/rm.yaml --run 'my runs/one'"
    told = next_command("rm", folder, ["fit", "--config", f"{tmp_path}/rm.yaml"])  # there is no ppo.yaml
    assert told == "lit-instruct ppo fit --data.path=PROMPTS --run 'my runs/one'"
    told = next_command("ppo", folder, ["fit", "--config", f"{tmp_path}/ppo.yaml"])
    assert told == f"lit-instruct eval --config {tmp_path}/eval.yaml --run 'my runs/one'"
    assert next_command("ppo", folder, ["fit"]) == "lit-instruct chat --run 'my runs/one/ppo'"


def test_the_name_by_which_the_program_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / ".venv/bin/lit-instruct"
    script.parent.mkdir(parents=True)
    script.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(script)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert program() == [".venv/bin/lit-instruct"]
    monkeypatch.setenv("PATH", str(script.parent))
    assert program() == ["lit-instruct"]
    monkeypatch.setattr("sys.argv", ["/somewhere/lit_instruct/cli.py"])
    assert program()[1:] == ["-m", "lit_instruct.cli"]


def test_the_main_figure() -> None:
    assert main_figure("sft", {"train/loss": 2.0, "val/loss": 1.7321}) == "validation loss 1.73"
    assert main_figure("rm", {"val/loss": 0.6, "val/pair_accuracy": 0.7421}) == "pair accuracy 0.742"
    assert main_figure("ppo", {"val/reward": 0.4, "val/kl": 5.123}) == "validation reward 0.4 at a KL of 5.12 nats"
    assert main_figure("ppo", {"ppo/reward": 0.4, "ppo/kl": 5.1}) == "reward 0.4 at a KL of 5.10 nats"
    assert main_figure("ppo", {"val/reward": 1.0, "val/kl": -0.001}) == "validation reward 1 at a KL of 0.00 nats"
    assert main_figure("ppo", {}) == ""


def test_a_stage_ends_with_its_figure_and_the_next_command(
    tmp_path: Path, tiny_model: Path, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("sft", tmp_path, files, f"--model.base={tiny_model}") == 0
    done, follows = capsys.readouterr().out.splitlines()[-2:]
    assert re.fullmatch(rf"sft: done in \d+ s, validation loss \d+\.\d+, written to {tmp_path}/sft", done)
    assert follows == f"next: lit-instruct rm fit --data.path=RANKED_RESPONSES --run {tmp_path}"


def test_the_command_to_resume_stands_alone_and_resumes(
    tmp_path: Path, tiny_model: Path, files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        """Standard error as a terminal."""

        def __init__(self) -> None:
            self.text = ""

        def write(self, text: str) -> int:
            self.text += text
            return len(text)

        def flush(self) -> None: ...

        def isatty(self) -> bool:
            return True

    press = "--trainer.callbacks+=tests.lit_instruct.stages.helpers.PressCtrlC"
    words: list[Any] = ["sft", "fit", "--run", tmp_path / "a run", *files.options("sft"), f"--model.base={tiny_model}"]
    words += [word for word in QUICK if "progress_bar" not in word] + ["--trainer.max_epochs=2"]
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    assert run(*words, press, "--trainer.callbacks.during=1") == 130
    assert terminal.text.endswith("\n")  # so that what follows begins on a line of its own
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Resume with" in line]
    told = shlex.split(line.removeprefix("Stopped. Resume with: "))
    assert told[0] == "lit-instruct" and told[-1] == "--ckpt_path=last"
    again = [word for word in told[1:] if "callbacks" not in word]
    assert run(*again) == 0
