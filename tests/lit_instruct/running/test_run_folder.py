"""One run at a time has a stage's folder, and first puts in order what killed runs left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lit_instruct.errors import UserError
from lit_instruct.running.run_folder import own_folder
from tests.lit_instruct.stages.helpers import Files, fit, snapshot


def test_a_second_run_is_refused_and_leaves_the_first_alone(
    tmp_path: Path, tiny_model: Path, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run" / "sft"
    with own_folder(folder):
        before = snapshot(tmp_path)
        assert fit("sft", tmp_path / "run", files, f"--model.base={tiny_model}") == 2
        assert snapshot(tmp_path) == before
    said = f"lit-instruct: error: {folder}: another run is using this folder; wait until it ends, or choose another"
    assert said in capsys.readouterr().err


def test_a_folder_that_stays_empty_is_removed_again(tmp_path: Path) -> None:
    with own_folder(tmp_path / "a" / "sft"):
        assert (tmp_path / "a" / "sft" / ".lock").is_file()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with own_folder(tmp_path / "mine" / "sft"):
        (tmp_path / "mine" / "sft" / "stage.json").write_text("{}")
    assert [path.name for path in (tmp_path / "mine" / "sft").iterdir()] == ["stage.json"]


def test_what_killed_runs_left_is_put_in_order(tmp_path: Path) -> None:
    for name in (".ready", ".writing-x", "checkpoints"):
        (tmp_path / name).mkdir()
    (tmp_path / "stage.json").write_text("old")
    (tmp_path / ".ready" / "stage.json").write_text("new")
    (tmp_path / ".writing-x" / "model.safetensors").write_text("half")
    (tmp_path / "checkpoints" / "last.ckpt.writing").write_text("half")
    with own_folder(tmp_path):
        pass
    assert {path.name for path in tmp_path.rglob("*")} == {"stage.json", "checkpoints"}
    assert (tmp_path / "stage.json").read_text() == "new"


def test_places_that_are_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.symlink("loop", tmp_path / "loop")
    for place in ("file", "file/sft", "loop/sft", "long" * 100):
        with (
            pytest.raises(UserError, match=f"{place}: cannot write here .*; choose another place with --run"),
            own_folder(tmp_path / place),
        ):
            pass


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refused)  # root may write everywhere
    with pytest.raises(UserError, match="cannot write here .Permission denied."), own_folder(tmp_path / "sft"):
        pass
