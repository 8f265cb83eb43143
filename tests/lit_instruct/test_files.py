"""Files are replaced whole or not at all, and a full disk is one sentence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from safetensors import SafetensorError

from lit_instruct.errors import UserError
from lit_instruct.files import (
    beside,
    complete_lines,
    expand_home,
    finish_replacing,
    json_text,
    locked,
    remove_left_over,
    replacing_file,
    replacing_files,
    write_text,
)


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


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
def test_what_a_run_killed_between_the_renames_left_is_put_in_place_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    folder = earlier(tmp_path)
    (folder / "adapter.safetensors").write_text("of another kind")
    left, replace_file = moved, os.replace

    def killed(*places: Any) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        replace_file(*places)

    monkeypatch.setattr(os, "replace", killed)
    kinds = ("model.safetensors", "adapter.safetensors")
    with pytest.raises(KeyboardInterrupt), replacing_files(folder, "stage.json", kinds) as scratch:
        fill(scratch)
        (scratch / "a.json").write_text("new a")
        (scratch / "z.json").write_text("new z")
    monkeypatch.undo()
    assert (folder / ".ready").is_dir()
    assert content(folder)["stage.json"] == "earlier record"
    for _ in range(2):
        finish_replacing(folder, "stage.json")
        assert content(folder) == {
            "stage.json": "new record",
            "model.safetensors": "new model",
            "a.json": "new a",
            "z.json": "new z",
        }
        assert [path.name for path in folder.iterdir() if path.is_dir()] == ["logs"]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    folder = earlier(tmp_path)
    for name in ("checkpoints", "non_finite/iteration-1"):
        (folder / name).mkdir(parents=True)
    for name in (".writing-a1", "non_finite/iteration-1/.writing-b2", "checkpoints/shards.ckpt.writing"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_text("half")
    beside(folder / "checkpoints/last.ckpt").write_text("half")
    before = content(folder)
    remove_left_over(folder)
    assert content(folder) == before
    assert list((folder / "checkpoints").iterdir()) == []
    assert list((folder / "non_finite/iteration-1").iterdir()) == []
    assert not (folder / ".writing-a1").exists()


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with locked(lock, "busy"):
        with pytest.raises(UserError, match="^busy$"), locked(lock, "busy"):
            pass
        assert lock.exists()
    assert not lock.exists()


def test_the_lock_file_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    code = (
        "import os, sys; from pathlib import Path; from lit_instruct.files import locked\n"
        "with locked(Path(sys.argv[1]), ''): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(lock)], check=False).returncode == -9
    assert lock.exists()
    with locked(lock, "busy"):
        pass


def test_a_file_system_without_locks_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(FileLock, "acquire", refused)
    with locked(tmp_path / ".lock", "busy"):
        pass
    assert f"{tmp_path}: this file system has no locks" in caplog.text


def test_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert (
        expand_home("~/a.jsonl@3, ~/b.jsonl,org/name:train@1") == "/home/me/a.jsonl@3,/home/me/b.jsonl,org/name:train@1"
    )
    for other in ("~", "a~/b", "org/name", "", "a,b~"):
        assert expand_home(other) == ("/home/me" if other == "~" else other)


def test_complete_lines_leave_out_what_is_still_being_written(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for written, lines in ((b"", []), (b"half", []), (b"one\ntwo\n", ["one", "two"]), (b"one\n\xc3", ["one"])):
        path.write_bytes(written)
        assert complete_lines(path) == lines
