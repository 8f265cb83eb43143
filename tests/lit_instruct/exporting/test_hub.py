"""`lit-instruct export --push-to-hub` with a client that only records its calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalTokenNotFoundError

from lit_instruct.exporting import hub
from tests.lit_instruct.stages.helpers import run


class Api:
    """Stands for the hub's client."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, name: str, **options: Any) -> Any:
        self.calls.append((name, options))

        class Made(str):
            repo_id = f"me/{name}"

        return Made(f"https://hub/me/{name}")

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload", options))


def test_pushing_uses_the_clients_own_login(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    words = ["export", "--run", trained / "sft", "--to", tmp_path / "out"]
    assert run(*words, "--push-to-hub") == 0
    assert api.calls[0] == ("out", {"private": True, "exist_ok": True})
    assert api.calls[1][1]["repo_id"] == "me/out"
    assert run(*words, "--push-to-hub=org/name", "--merge") == 0
    assert api.calls[2][0] == "org/name"
    assert (tmp_path / "out/model.safetensors").is_file()


def test_pushing_without_a_login(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stranger(Api):
        def create_repo(self, name: str, **options: Any) -> Any:
            raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr(hub, "HfApi", Stranger)
    assert run("export", "--run", trained / "sft", "--to", tmp_path / "out", "--push-to-hub") == 2
    assert "hf auth login" in capsys.readouterr().err
    assert (tmp_path / "out/export.json").is_file()
