"""Command lines that are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lit_instruct.cli import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], str]:
    """Runs a command line in the checkout; it has to end with exit code 2 and one line, which is returned."""
    monkeypatch.chdir(ROOT)

    def run(words: Sequence[str]) -> str:
        capsys.readouterr()
        assert main(list(words)) == 2
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", 1)
        assert error.startswith("lit-instruct: error: ")
        return error

    return run
