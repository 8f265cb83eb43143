"""An export replaces the earlier one as a whole, whatever a failed or killed one left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.errors import UserError
from lit_instruct.exporting.target import replacing_folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def earlier(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "earlier").touch()
    return tmp_path / "out"


def test_replaced_as_a_whole(tmp_path: Path) -> None:
    with replacing_folder(earlier(tmp_path)) as scratch:
        (scratch / "new").touch()
    assert names(tmp_path) == {"out/new"}


@pytest.mark.parametrize("error", [UserError("too far"), OSError(28, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("renames", [0, 1])
def test_an_error_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, renames: int
) -> None:
    target, rename, done = earlier(tmp_path), os.replace, 0

    def failing(*places: Any) -> None:
        nonlocal done
        done += 1
        if done == renames + 1:
            raise error
        rename(*places)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)), replacing_folder(target) as scratch:
        (scratch / "new").touch()
    assert names(tmp_path) == {"out/earlier"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_export_left_is_put_back_and_removed(tmp_path: Path) -> None:
    for name in (".out.writing-a/new", ".out.writing-a/old", ".other.writing-b/new"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").touch()
    with pytest.raises(UserError, match="too far"), replacing_folder(tmp_path / "out"):
        raise UserError("too far")
    assert names(tmp_path) == {"out/model.safetensors", ".other.writing-b/new/model.safetensors"}


def test_two_exports_at_once(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with replacing_folder(target) as scratch:
        with pytest.raises(UserError, match=f"^--to={target}: another export"), replacing_folder(target):
            pass
        (scratch / "new").touch()
    assert names(tmp_path) == {"out/new"}
