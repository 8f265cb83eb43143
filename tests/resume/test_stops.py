"""Runs that end without a kill: a broken reward function, a full disk, a finished training that is continued."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from lit_instruct.judging import client
from lit_instruct.running.callbacks import SaveConfig
from tests.lit_instruct.judging.endpoint import Reply, endpoint
from tests.lit_instruct.stages.helpers import column, snapshot
from tests.lit_instruct.stages.rewards import letters
from tests.resume import rewards
from tests.resume.helpers import Runs, checkpoint, differences


def test_a_reward_function_that_breaks_loses_nothing(
    tmp_path: Path, runs: Runs, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(rewards.BREAKS, str(rewards.calls + 2))
    assert runs.fit(tmp_path) == 2
    assert "the labeler has gone home" in capsys.readouterr().err
    assert checkpoint(tmp_path)["ppo"]["iterations_done"] == 1  # neither a validation nor the end of an epoch saved it
    monkeypatch.delenv(rewards.BREAKS)
    assert runs.resume(tmp_path) == 0
    assert differences(whole, tmp_path) == []


def test_a_reward_server_that_goes_away_loses_nothing(
    tmp_path: Path, runs: Runs, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)

    def scores(asked: str) -> Reply:
        return Reply(json.dumps(letters([("", response) for response in json.loads(asked)["responses"]])))

    with endpoint(lambda asked: scores(asked) if len(server.asked) < 2 else Reply("away", 503)) as server:
        reward = f"--model.reward.function={server.url}"
        assert runs.fit(tmp_path, reward) == 2
        shown = capsys.readouterr().err
        assert "answered 503: away, also after 5 retries; check that the server runs and run the same command" in shown
        assert checkpoint(tmp_path)["ppo"]["iterations_done"] == 1
        server.answer = scores
        assert runs.resume(tmp_path, reward) == 0
    assert differences(whole, tmp_path) == []


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, runs: Runs, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free, scratch = 2, tmp_path / "ppo/checkpoints/last.ckpt.writing"

    def full(_: int) -> None:
        nonlocal free
        free -= scratch.exists()  # metrics.csv is synchronised too
        if free < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert runs.fit(tmp_path) == 2
    assert "no space left" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "ppo/checkpoints").iterdir()] == ["last.ckpt"]
    assert checkpoint(tmp_path)["ppo"]["iterations_done"] == 3
    assert runs.resume(tmp_path) == 0
    assert differences(whole, tmp_path) == []


# In the middle of an epoch and at its end; validation is due at neither.
@pytest.mark.parametrize("length", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_complete_training_goes_on_as_if_it_had_not_ended(
    tmp_path: Path, runs: Runs, whole: Path, length: int
) -> None:
    assert runs.fit(tmp_path, f"--model.iterations={length}") == 0
    record = json.loads((tmp_path / "ppo/stage.json").read_text())
    rewarded = column(tmp_path / "ppo/logs/metrics.csv", "val/reward")
    assert rewarded[-1] == record["metrics"]["val/reward"]  # its end was validated
    assert runs.resume(tmp_path) == 0
    assert differences(whole, tmp_path) == []


def test_a_complete_training_is_only_handed_over_again(
    tmp_path: Path, runs: Runs, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.fit(tmp_path, "--model.iterations=1") == 0
    record = json.loads((tmp_path / "ppo/stage.json").read_text())
    log = (tmp_path / "ppo/logs/metrics.csv").read_bytes()
    assert runs.resume(tmp_path, "--model.iterations=1") == 0
    again = json.loads((tmp_path / "ppo/stage.json").read_text())
    assert again["metrics"] == record["metrics"]
    assert (tmp_path / "ppo/logs/metrics.csv").read_bytes() == log


def test_a_complete_training_is_not_handed_over_as_that_of_other_options(
    tmp_path: Path, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.fit(tmp_path, "--model.iterations=1") == 0
    before = snapshot(tmp_path)
    other = ["--model.iterations=1", "--model.optimizer.learning_rate=6e-3", "--model.kl.coef=0.5"]
    assert runs.resume(tmp_path, *other) == 2
    message = (
        "--ckpt_path: this training was complete with another model.kl.coef, model.optimizer.learning_rate, and "
        "nothing is left to train; start a new training without --ckpt_path, give it more to do, or give the options "
        "of the checkpoint"
    )
    assert f"lit-instruct: error: {message}" in capsys.readouterr().err.splitlines()
    assert snapshot(tmp_path) == before


def test_a_disk_that_is_full_before_the_first_step_advises_to_run_again(
    tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint in the folder is that of the earlier run: --ckpt_path=last would hand it over."""
    assert runs.fit(tmp_path, "--model.iterations=1") == 0

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    other = ["--model.iterations=1", "--model.kl.coef=0.5"]
    with monkeypatch.context() as patch:
        patch.setattr(SaveConfig, "on_train_start", full)
        assert runs.fit(tmp_path, *other) == 2
    said = capsys.readouterr().err
    assert "ppo: no space left on the disk; free some and run again" in said
    assert "--ckpt_path" not in said
    assert runs.fit(tmp_path, *other) == 0
    assert json.loads((tmp_path / "ppo/stage.json").read_text())["options"]["model"]["kl"]["coef"] == 0.5


def test_nothing_saved_yet(tmp_path: Path, runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert runs.resume(tmp_path, "--model.iterations=1", "--trainer.limit_val_batches=0") == 0
    assert "nothing was saved" in caplog.text
