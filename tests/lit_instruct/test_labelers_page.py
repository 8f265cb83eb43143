"""docs/labelers.md: its files can be read, its table has every field, its server works, its commands are understood."""

from __future__ import annotations

import re
import shlex
import threading
from dataclasses import fields
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.command_line.check import answered
from lit_instruct.command_line.stored import MODULES
from lit_instruct.judging.judge_file import JudgeOptions, read_judge
from lit_instruct.rollouts.reward_functions import function_scorer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "labelers.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_the_files_of_judges_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "judge.yaml"
    read = []
    for block in _blocks("yaml"):
        path.write_text(block)
        read.append(read_judge(path, "judge"))
    assert [(one.by, one.budget, [*one.templates]) for one in read] == [("pairs", 2000, []), ("all", None, ["all"])]


def test_the_table_has_every_field() -> None:
    table = PAGE[PAGE.index("| field |") :].split("\n\n")[0]
    named = [name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert named == [one.name for one in fields(JudgeOptions)]


def test_the_server_gives_rewards() -> None:
    space: dict[str, Any] = {"__name__": "short"}
    exec(_blocks("python")[0], space)
    space["Score"].log_message = lambda *_: None
    server = HTTPServer(("127.0.0.1", 0), space["Score"])
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    scores = function_scorer(f"http://127.0.0.1:{server.server_port}/score")(["p", "q"], ["a", "bbb"], [{}, {}])
    server.shutdown()
    server.server_close()
    assert scores == [-1.0, -3.0]


@pytest.mark.parametrize("line", [line for block in _blocks("sh") for line in block.splitlines()])
def test_the_commands_are_understood(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in an option would raise an error."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hello"}\n')
    for stage in ("sft", "rm"):
        (tmp_path / "runs/demo" / stage).mkdir(parents=True)
        (tmp_path / "runs/demo" / stage / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    _, command, *words = shlex.split(line)
    named = f"{command} {words[0]}"
    assert not answered(*((named, words[1:]) if named in MODULES else (command, words)))
