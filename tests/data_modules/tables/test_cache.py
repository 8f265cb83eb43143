"""Content that is built once, whole or not at all, and found again."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from data_modules.tables import cache as token_cache
from data_modules.tables.cache import KEPT_DAYS, RECORD, find_or_build
from lit_instruct.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(token_cache, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "tokens"


def write(folder: Path) -> dict[str, Any]:
    (folder / "a.arrow").write_bytes(b"content")
    return {"rows": 3}


def refuse(folder: Path) -> dict[str, Any]:
    raise AssertionError("built again")


def test_built_once_for_each_key(cache: Path):
    folder, record, _ = find_or_build({"a": 1, "b": 2}, write)
    assert record == {"rows": 3, "files": {"a.arrow": [7, hashlib.sha256(b"content").hexdigest()]}}
    assert find_or_build({"b": 2, "a": 1}, refuse) == (folder, record, None)
    assert find_or_build({"a": 1, "b": 3}, write)[0] != folder
    assert sorted(path.name for path in folder.iterdir()) == ["a.arrow", RECORD]
    assert (folder.stat().st_mode & 0o777) == (0o777 & ~_umask())


@pytest.mark.parametrize("damage", ["a.arrow", RECORD, "cut", "one byte", "broken", "{}", "[]", "null", "changed"])
def test_what_is_not_whole_is_built_again(damage: str):
    folder, *_ = find_or_build(1, write)
    if damage == "cut":
        (folder / "a.arrow").write_bytes(b"conte")
    elif damage == "one byte":
        (folder / "a.arrow").write_bytes(b"conTent")
    elif damage == "changed":
        (folder / RECORD).write_text((folder / RECORD).read_text().replace('"rows": 3', '"rows": 4'))
    elif not (folder / damage).is_file():
        (folder / RECORD).write_text("{" if damage == "broken" else damage)
    else:
        (folder / damage).unlink()
    assert find_or_build(1, write)[1]["rows"] == 3
    assert (folder / "a.arrow").read_bytes() == b"content"
    assert find_or_build(1, refuse)[0] == folder


@pytest.mark.parametrize("error", [UserError("rows.jsonl:3: wrong"), KeyboardInterrupt()])
def test_an_error_leaves_nothing(cache: Path, error: BaseException):
    def fail(folder: Path) -> dict[str, Any]:
        write(folder)
        raise error

    with pytest.raises(type(error)):
        find_or_build(1, fail)
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []


def test_left_overs_of_a_killed_process_go(cache: Path):
    folder, *_ = find_or_build(1, write)
    left_over = cache / f".{folder.name}.tmp-killed"
    left_over.mkdir()
    (folder / RECORD).unlink()
    find_or_build(1, write)
    assert not left_over.exists()


def test_what_nobody_used_for_long_goes_when_something_new_comes(cache: Path):
    old, used, new = (find_or_build(name, write)[0] for name in ("old", "used", "new"))
    long_ago = time.time() - (KEPT_DAYS + 1) * 86_400
    for folder in (old, used):
        os.utime(folder / RECORD, (long_ago, long_ago))
    find_or_build("used", refuse)
    find_or_build("newer", write)
    assert (old.exists(), used.exists(), new.exists()) == (False, True, True)


def test_full_disk_names_the_folder_and_the_variable():
    def full(folder: Path) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        UserError, match=r"tokens: the cache folder .*No space left.*; free some space, or set LIT_INST"
    ):
        find_or_build(1, full)


def test_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(token_cache, "cache_folder", lambda: tmp_path / "file")
    with pytest.raises(UserError, match="file/tokens: the cache folder for tokenised data cannot be written"):
        find_or_build(1, write)


def _build_slowly(folder: Path, cache: str, built: Path) -> None:
    def slow(scratch: Path) -> dict[str, Any]:
        with built.open("a") as file:
            file.write("x")
        time.sleep(0.3)
        return write(scratch)

    token_cache.cache_folder = lambda: Path(cache)  # type: ignore[assignment]
    found = find_or_build("shared", slow)[0]
    assert json.loads((found / RECORD).read_text())["record"]["rows"] == 3


def test_of_several_processes_one_builds(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    built = tmp_path / "built"
    arguments = (tmp_path, str(tmp_path / "cache"), built)
    processes = [context.Process(target=_build_slowly, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert built.read_text() == "x"


def test_content_without_a_key_is_built_each_time():
    first, second = find_or_build(None, write), find_or_build(None, write)
    assert first.record == {"rows": 3}
    folder = first.folder
    assert folder != second.folder
    del first
    assert not folder.exists() and second.folder.exists()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
