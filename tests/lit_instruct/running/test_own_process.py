"""Stages are trained once, resumed after an interruption, and trained anew when what they are made from changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from lit_instruct.errors import UserError
from lit_instruct.running import own_process
from lit_instruct.running.own_process import in_own_process, run_stage


class Trainer:
    """Writes what a stage leaves, and notes the options of each training.

    Args:
        interrupted: trainings that stop after a checkpoint.
    """

    def __init__(self, interrupted: int = 0) -> None:
        self.interrupted = interrupted
        self.given: list[list[str]] = []

    def __call__(self, words: Sequence[str], log: Path) -> None:
        """Trains."""
        self.given.append([*words])
        folder = Path(words[words.index("--run") + 1]) / words[0]
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints/last.ckpt").touch()
        if self.interrupted:
            self.interrupted -= 1
            raise KeyboardInterrupt
        (folder / "stage.json").write_text(json.dumps({"seconds": 12.5, "number": len(self.given)}))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sft.yaml"
    path.write_text("model: {}\n")
    return path


def test_a_stage_is_trained_once(tmp_path: Path, config: Path) -> None:
    train, run = Trainer(), tmp_path / "runs/a"
    for _ in range(2):
        assert run_stage("sft", config, run, ["--x=1"], train) == 12.5
    assert train.given == [["sft", "fit", "--config", str(config), "--run", str(run), "--x=1"]]


def test_an_interrupted_stage_is_resumed(tmp_path: Path, config: Path) -> None:
    train, run = Trainer(interrupted=1), tmp_path / "runs/a"
    with pytest.raises(KeyboardInterrupt):
        run_stage("sft", config, run, ["--x=1"], train)
    run_stage("sft", config, run, ["--x=1"], train)
    assert [words[-1] for words in train.given] == ["--x=1", "--ckpt_path=last"]


def test_changes_train_it_anew(tmp_path: Path, config: Path) -> None:
    train, run, data = Trainer(), tmp_path / "runs/b", tmp_path / "rows.jsonl"
    data.write_text("1")
    options = [f"--data.path={data}"]

    def times() -> int:
        run_stage("rm", config, run, options, train)
        return len(train.given)

    assert times() == 1
    data.write_text("2")
    assert times() == 2
    config.write_text("model: {iterations: 2}\n")
    assert times() == 3
    options.append("--seed_everything=1")
    assert times() == times() == 4
    assert not any("--ckpt_path=last" in words for words in train.given)


def test_data_that_the_config_names_counts(tmp_path: Path, config: Path) -> None:
    train, data = Trainer(), tmp_path / "rows.jsonl"
    config.write_text(f"model: {{}}\ndata: {{path: {data}, limit: 8}}\n")
    for content in ("1", "1", "2"):
        data.write_text(content)
        run_stage("sft", config, tmp_path / "run", (), train)
    assert len(train.given) == 2


def test_a_stage_that_another_is_made_from_counts(tmp_path: Path, config: Path) -> None:
    train, run = Trainer(), tmp_path / "runs/a"
    run_stage("sft", config, run, [], train)
    options = [f"--model.reward.model=elsewhere,{run / 'sft'}"]
    for _ in range(2):
        run_stage("ppo", config, run, options, train)
    assert len(train.given) == 2
    run_stage("sft", config, run, ["--x=2"], train)
    run_stage("ppo", config, run, options, train)
    assert [words[0] for words in train.given] == ["sft", "ppo", "sft", "ppo"]


class Waiting:
    """Stands in for the process of a stage, which is told to end or ends by itself.

    Args:
        interrupt: raised by the first wait.
    """

    def __init__(self, interrupt: KeyboardInterrupt) -> None:
        self.interrupts, self.terminated = [interrupt], False

    def __call__(self, *command: object, **options: object) -> Waiting:
        """Starts it."""
        return self

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *error: object) -> None: ...

    def terminate(self) -> None:
        """Is told to end."""
        self.terminated = True

    def wait(self) -> int:
        """Waits for the end."""
        if self.interrupts:
            raise self.interrupts.pop()
        return 0


@pytest.mark.parametrize(("words", "terminated"), [((), False), (("SIGTERM",), True)])
def test_a_signal_to_the_command_alone_ends_the_stage_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], terminated: bool
) -> None:
    process = Waiting(KeyboardInterrupt(*words))
    monkeypatch.setattr(own_process.subprocess, "Popen", process)
    with pytest.raises(KeyboardInterrupt):
        in_own_process(["sft", "fit"], tmp_path / "sft.log")
    assert process.terminated is terminated and not process.interrupts


@pytest.mark.slow
def test_a_failure_tells_the_end_of_the_output(tmp_path: Path) -> None:
    log = tmp_path / "sft.log"
    with pytest.raises(UserError, match=r"sft fit failed: .*no-such-file.*sft\.log"):
        in_own_process(["sft", "fit", "--run", str(tmp_path), "--data.path=no-such-file.jsonl"], log)
    assert "no-such-file" in log.read_text()
