"""The picture of a report: what is asked of Chromium, and a sentence where something is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BROWSER = """#!/bin/sh
for word; do case "$word" in --screenshot=*) echo "$*" > "${word#--screenshot=}" ;; esac; done
"""


def made(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "recipes/report_picture.py", *words]
    return subprocess.run(command, cwd=ROOT, env={"PATH": str(folder)}, capture_output=True, text=True, check=False)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    (page := tmp_path / "report.html").write_text("<h1>A report</h1>")
    return page


def test_a_browser_is_asked(tmp_path: Path, report: Path) -> None:
    (tmp_path / "chromium").write_text(BROWSER)
    (tmp_path / "chromium").chmod(0o755)
    assert made(tmp_path, str(report), str(tmp_path / "out.png")).returncode == 0
    asked = (tmp_path / "out.png").read_text()
    assert "--window-size=1100,1500" in asked and asked.endswith(f" {report.as_uri()}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chromium", "out.png", "report.html"]


def test_what_is_missing_is_named(tmp_path: Path, report: Path) -> None:
    done = made(tmp_path, str(report), str(tmp_path / "out.png"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "needs Chromium; install it (Debian: apt install chromium)" in done.stderr
    done = made(tmp_path, "runs/nope/eval/report.html", str(tmp_path / "out.png"))
    assert done.stderr.startswith("runs/nope/eval/report.html: no such report; make it with `make demo`")
