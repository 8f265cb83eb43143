"""Texts that would control the terminal."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.cli import main
from lit_instruct.evaluation.summary import print_summary
from lit_instruct.progress import Progress
from lit_instruct.terminal import printable

HARM = "\x1b[2J\x07\x9b2J\u202e[bold]\u2028"
SHOWN = "\\x1b[2J\\x07\\x9b2J\\u202e[bold]\\u2028"


@pytest.fixture
def usual_records() -> Iterator[None]:
    """Log records as Python makes them."""
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)
    yield
    logging.setLogRecordFactory(factory)


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


def test_json_on_standard_output_reads_as_the_same_value(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"p {number}", "use_case": f"caf\u00e9 {HARM}"} for number in range(3)]
    path = tmp_path / "rows\x9b.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "inspect", str(path), f"--base={tiny_model}", "--json"]) == 0
    out = capsys.readouterr().out
    report = json.loads(out)
    assert report["path"] == str(path)
    assert list(report["use_cases"]) == [f"caf\u00e9 {HARM}"]
    assert printable(out) == out
    assert "caf\u00e9" in out


def test_log_messages_of_commands(caplog: pytest.LogCaptureFixture, usual_records: None) -> None:
    assert main(["data", "inspect", "no-such-file.jsonl"]) == 2
    logging.getLogger("lit_instruct.some").warning("%s: row of %s", "a\x1b]0;x\x07.jsonl", HARM)
    assert caplog.messages == ["a\\x1b]0;x\\x07.jsonl: row of " + SHOWN]


@pytest.mark.parametrize("quiet", [0.0, 100.0])
def test_names_and_figures_of_progress(quiet: float) -> None:
    stream, now = io.StringIO(), iter([0.0, *[1000.0] * 99])
    with Progress(f"eval {HARM}", 4, stream=stream, clock=lambda: next(now), quiet=quiet) as shown:
        shown.update(1, "sampling", {f"reward/{HARM}": "0.5"})
    assert f"eval {SHOWN}: 1 of 4" in stream.getvalue()
    assert f"reward/{SHOWN}=0.5" in stream.getvalue()
    assert printable(stream.getvalue()) == stream.getvalue()


def test_the_table_of_eval(capsys: pytest.CaptureFixture[str]) -> None:
    interval = {"mean": 0.5, "ci_low": 0.25, "ci_high": 0.75}
    report: dict[str, Any] = {
        "systems": {"base": "base", HARM: f"system {HARM}"},
        "prompts": 30,
        "seen": {"held_out": True},
        "judge": f"judge {HARM}",
        "labeler": {"base": interval, HARM: interval, f"{HARM}_minus_base": interval},
        "win_rate": {f"{HARM}_vs_base": interval},
        "pairs": [[HARM, "base"]],
        "tasks": None,
        "left_out": [f"left out: {HARM}"],
        "warnings": [f"prompt {HARM}"],
    }
    print_summary(report, Path(f"run {HARM}"))
    out = capsys.readouterr().out
    assert printable(out) == out
    for text in ("left out: ", "warning: prompt ", "report: run "):
        assert text + SHOWN in out
    assert "0.50 \u00b1 0.25" in out
