"""A checkpoint given by --ckpt_path: the command line wins, and what cannot be resumed gets one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.lit_instruct.stages.helpers import Files, fit, snapshot

FUNCTION = "tests.lit_instruct.stages.rewards.letters"


def test_hyper_parameters_in_a_checkpoint_are_ignored(
    run_folder: Path, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "imported"
    (tmp_path / "marker_module.py").write_text(f"from pathlib import Path; Path({str(marker)!r}).touch()\nf = len\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    saved = torch.load(run_folder / "ppo/checkpoints/last.ckpt", weights_only=True)
    saved["hyper_parameters"] = {
        "reward": {"function": "marker_module.f"},
        "iterations": 9,
        "_class_path": "marker_module.f",
        "_instantiator": "marker_module.f",
    }
    given = tmp_path / "given.ckpt"
    torch.save(saved, given)
    start = [f"--model.base={run_folder / 'sft'}", f"--model.reward.model={run_folder / 'rm'}"]
    more = [f"--ckpt_path={given}", "--model.iterations=5"]
    assert fit("ppo", tmp_path / "new", files, *start, *more) == 0
    record = json.loads((tmp_path / "new/ppo/stage.json").read_text())
    assert record["options"]["model"]["iterations"] == 5
    assert record["options"]["model"]["reward"]["function"] is None
    assert record["metrics"]["ppo/iteration"] == 5.0
    assert not marker.exists()


@pytest.mark.parametrize(
    ("stage", "of", "message"),
    [
        ("rm", "sft", "this is a checkpoint of sft, not of rm; give one of this stage"),
        ("ppo", "rm", "this is a checkpoint of rm, not of ppo; give one of this stage"),
        ("sft", "ppo", "this is a checkpoint of ppo, not of sft; give one of this stage"),
    ],
)
def test_another_stages(
    run_folder: Path,
    files: Files,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    of: str,
    message: str,
) -> None:
    before = snapshot(run_folder)
    start = [f"--model.base={tiny_model}"] if stage == "sft" else []
    assert fit(stage, run_folder, files, *start, f"--ckpt_path={run_folder / of}/checkpoints/last.ckpt") == 2
    assert f"lit-instruct: error: --ckpt_path: {message}" in capsys.readouterr().err.splitlines()
    assert snapshot(run_folder) == before


def test_foreign_and_cut_files(
    tmp_path: Path, trained: Path, files: Files, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut, foreign = tmp_path / "cut.ckpt", tmp_path / "foreign.ckpt"
    cut.write_bytes((trained / "sft/checkpoints/last.ckpt").read_bytes()[:3000])
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "hyper_parameters": {"base": "x"}}, foreign)
    for path, said in ((cut, "is damaged or not a checkpoint ("), (foreign, "is not a checkpoint of a stage (")):
        assert fit("sft", tmp_path / "run", files, f"--model.base={tiny_model}", f"--ckpt_path={path}") == 2
        error = capsys.readouterr().err
        assert f"lit-instruct: error: --ckpt_path: {path} {said}" in error
        assert "Traceback" not in error
    assert not (tmp_path / "run/sft/stage.json").exists()
