"""Paths that cannot be used, and code in a model's folder: one sentence each, from every command."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from tests.lit_instruct.stages.helpers import Files, fit, run


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The only error line."""
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return next(line for line in error.splitlines() if line.startswith("lit-instruct: error: "))


@pytest.fixture
def with_code(tmp_path: Path, tiny_model: Path) -> Path:
    """A model whose tokenizer is code in its folder; running it makes the file `ran` beside the folder."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "coded"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Coded", "auto_map": {"AutoTokenizer": ["coded.Coded", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "coded.py").write_text(
        f"from pathlib import Path\n\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "from transformers import PreTrainedTokenizerFast\n\n\nclass Coded(PreTrainedTokenizerFast):\n    pass\n"
    )
    return folder


@pytest.mark.parametrize("command", ["chat", "sft", "rm", "data inspect"])
def test_code_in_a_folder_is_not_run_and_nothing_is_asked(
    tmp_path: Path,
    with_code: Path,
    files: Files,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.delenv("LIT_INSTRUCT_TRUST_REMOTE_CODE", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
    if command == "chat":
        code = run("chat", "--run", with_code)
    elif command == "data inspect":
        code = run("data", "inspect", files.sft, f"--base={with_code}")
    else:
        code = fit(command, tmp_path / "run", files, f"--model.base={with_code}")
    assert code == 2
    said = "this tokenizer has Python code of its own, which is not run; read it, and if you trust it, add "
    assert error_of(capsys) == f"lit-instruct: error: {with_code}: {said}--trust_remote_code"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("option", ["--trust_remote_code", "--trust_remote_code=true"])
def test_code_is_run_if_the_user_says_so(
    tmp_path: Path, with_code: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setenv("LIT_INSTRUCT_TRUST_REMOTE_CODE", "false")  # and restored after the test
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run("chat", option, "--run", with_code) == 0
    assert (tmp_path / "ran").exists()


def test_trust_is_true_or_false(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("chat", "--trust_remote_code=maybe") == 2
    assert error_of(capsys) == "lit-instruct: error: --trust_remote_code=maybe: give true or false"


@pytest.mark.parametrize(
    ("place", "said"),
    [("file", "Not a directory"), ("loop", "Too many levels of symbolic links"), ("long" * 100, "File name too long")],
)
def test_a_run_folder_that_cannot_be_made(
    tmp_path: Path, tiny_model: Path, files: Files, capsys: pytest.CaptureFixture[str], place: str, said: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    assert fit("sft", tmp_path / place, files, f"--model.base={tiny_model}") == 2
    assert said in error_of(capsys)
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("option", ["--to", "--out", "--json"])
def test_a_target_that_cannot_be_written(
    tmp_path: Path, trained: Path, files: Files, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "file").write_text("")
    target = f"{option}={tmp_path}/file/{'long' * 100}"
    words = {
        "--to": ["export", "--run", trained / "sft"],
        "--out": ["rm", "score", "--run", trained / "rm", f"--data.path={files.rm}"],
        "--json": ["data", "inspect", files.sft, f"--base={trained / 'sft'}"],
    }[option]
    assert run(*words, target) == 2
    assert "file" in error_of(capsys)
