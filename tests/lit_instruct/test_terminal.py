"""Texts that would control the terminal."""

from __future__ import annotations

import pytest

from lit_instruct.cli import main
from lit_instruct.terminal import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb\r\x07c\n\td\x9b", "a\\x1b[2Jb\\r\\x07c\n\td\\x9b"),
        ("\x1b]0;title\x07\x1b]8;;http://a\x1b\\", "\\x1b]0;title\\x07\\x1b]8;;http://a\\x1b\\"),
        ("user\u202eexe.txt \u2066a\u2069 \u200f", "user\\u202eexe.txt \\u2066a\\u2069 \\u200f"),
        ("\ud83d \u2028 \U000e0041", "\\ud83d \\u2028 \\U000e0041"),
        (
            "two\r\nlines, d\u00e9j\u00e0 vu, \U0001f469\u200d\U0001f4bb",
            "two\nlines, d\u00e9j\u00e0 vu, \U0001f469\u200d\U0001f4bb",
        ),
    ],
)
def test_what_is_harmful_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_an_error_message_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", "\x1b]0;x\x07\u202e.jsonl"]) == 2
    error = capsys.readouterr().err
    assert "\\x1b]0;x\\x07\\u202e.jsonl" in error and error.isascii() and "\x1b" not in error
