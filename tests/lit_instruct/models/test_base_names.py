"""Adapters and records name a base that is found from another folder and, where possible, on another machine."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from lit_instruct.errors import UserError
from lit_instruct.models import base_names
from lit_instruct.models.base_names import lasting_name
from lit_instruct.models.loading import find_source
from tests.lit_instruct.stages.helpers import Files, fit

COMMIT = "0123456789" * 4


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base_names, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--org--some-name" / "snapshots" / COMMIT
    elsewhere = tmp_path / "copy" / "models--org--some-name" / "snapshots" / COMMIT
    for folder in (snapshot, elsewhere, tmp_path / "cache" / "smollm2-135m-instruct-1", tmp_path / "models" / "own"):
        folder.mkdir(parents=True)
    assert lasting_name(str(tmp_path / "cache" / "smollm2-135m-instruct-1")) == ("smollm2-135m-instruct", None)
    assert lasting_name("smollm2-135m-instruct") == ("smollm2-135m-instruct", None)
    assert lasting_name("models/own") == (str(tmp_path / "models" / "own"), None)  # or it could be a hub id
    assert lasting_name("models/other") == ("models/other", None)
    assert lasting_name(str(snapshot)) == ("org/some-name", COMMIT)
    assert lasting_name(str(elsewhere)) == (str(elsewhere), None)  # not where the hub's client looks


def test_a_relative_base_is_found_from_another_folder(
    tmp_path: Path, tiny_model: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one request goes to the hub: tests are offline, where an unknown id is an error."""
    shutil.copytree(tiny_model, tmp_path / "models" / "own")
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.max_epochs=1"]
    assert fit("sft", Path("runs/a"), files, "--model.base=models/own", *short) == 0
    config = json.loads(Path("runs/a/sft/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "models" / "own")
    assert json.loads(Path("runs/a/sft/stage.json").read_text())["base"]["source"] == str(tmp_path / "models" / "own")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert fit("rm", tmp_path / "runs/a", files, *short) == 0


def test_a_relative_base_of_an_adapter_lies_here_or_beside_it(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "./base"}))
    with pytest.raises(UserError, match=r"adapter_config.json: its base \./base is not on this machine; put it there"):
        find_source(str(adapter))
    shutil.copytree(tiny_model, adapter / "base")
    assert find_source(str(adapter)).base == os.path.join(adapter, "base")
    (tmp_path / "base").mkdir()
    assert find_source(str(adapter)).base == "./base"
