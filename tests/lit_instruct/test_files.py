"""Files are replaced whole or not at all, and a full disk is one sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from lit_instruct.errors import UserError
from lit_instruct.files import beside, json_text, replacing_file, replacing_files, write_text


def earlier(tmp_path: Path) -> Path:
    folder = tmp_path / "sft"
    folder.mkdir()
    (folder / "stage.json").write_text("earlier record")
    (folder / "model.safetensors").write_text("earlier model")
    (folder / "logs").mkdir()
    return folder


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def fill(scratch: Path) -> None:
    (scratch / "stage.json").write_text("new record")
    (scratch / "model.safetensors").write_text("new model")


def test_replaces_what_is_new_and_leaves_the_rest(tmp_path: Path) -> None:
    folder = earlier(tmp_path)
    (folder / "notes.txt").write_text("mine")
    with replacing_files(folder) as scratch:
        fill(scratch)
        assert content(folder)["stage.json"] == "earlier record"
    assert content(folder) == {
        "stage.json": "new record",
        "model.safetensors": "new model",
        "notes.txt": "mine",
    }
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["logs"]


def test_makes_the_folder(tmp_path: Path) -> None:
    with replacing_files(tmp_path / "runs" / "demo" / "sft") as scratch:
        fill(scratch)
    assert content(tmp_path / "runs" / "demo" / "sft")["model.safetensors"] == "new model"


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_an_error_inside_leaves_the_earlier_result(tmp_path: Path, error: BaseException) -> None:
    folder = earlier(tmp_path)
    before = content(folder)
    with pytest.raises(type(error)), replacing_files(folder) as scratch:
        fill(scratch)
        raise error
    assert content(folder) == before
    assert not list(folder.glob(".writing-*"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        # what `save_file` raises there is no OSError
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_sentence(tmp_path: Path, error: Exception) -> None:
    folder = earlier(tmp_path)
    before = content(folder)
    with (
        pytest.raises(UserError, match=f"{folder}: no space left on the disk; free some"),
        replacing_files(folder) as scratch,
    ):
        fill(scratch)
        raise error
    assert content(folder) == before
    assert not list(folder.glob(".writing-*"))


def test_a_disk_that_fills_up_while_moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = earlier(tmp_path)
    before = content(folder)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="no space left"), replacing_files(folder) as scratch:
        fill(scratch)
    assert content(folder) == before
    assert not list(folder.glob(".writing-*"))


def test_the_record_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace_file = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(a).name), replace_file(a, b)))
    with replacing_files(tmp_path, last="stage.json") as scratch:
        for name in ("z.json", "stage.json", "a.json", "tokenizer.json"):
            (scratch / name).write_text("{}")
    assert order[-1] == "stage.json"
    assert len(order) == 4


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = "file/sft: cannot write here .*; choose another place with --run"
    with pytest.raises(UserError, match=message), replacing_files(tmp_path / "file" / "sft"):
        pass


def test_a_folder_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    """Tokenizers with several chat templates are saved with a folder of them."""
    for text in ("old", "new"):
        with replacing_files(tmp_path) as scratch:
            (scratch / "additional_chat_templates").mkdir()
            (scratch / "additional_chat_templates" / "tool_use.jinja").write_text(text)
    assert (tmp_path / "additional_chat_templates" / "tool_use.jinja").read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_error_while_a_file_is_written_leaves_the_earlier_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.json"
    path.write_text("earlier")
    with pytest.raises(type(error)), replacing_file(path) as scratch:
        scratch.write_text("half")
        raise error
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    beside(path).write_text("left over, and longer than what follows")
    write_text(path, "new \ud83d", "--out")
    assert path.read_text() == "new ?"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent/a.json: cannot write here .*; choose another place with --json"):
        write_text(tmp_path / "absent" / "a.json", json_text({}), "--json")
