"""The whole loop with people: two rounds ranked in a real Chromium, killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lit_instruct.iterating.helpers import loop_options, read
from tests.lit_instruct.labeling.browser import Tab
from tests.lit_instruct.stages.helpers import Files

pytestmark = pytest.mark.slow
OPENS = "labelers open "


@contextmanager
def _iterating(config: Path) -> Iterator[subprocess.Popen[str]]:
    """`lit-instruct iterate` as a user starts it."""
    words = [sys.executable, "-m", "lit_instruct.cli", "iterate", "--config", str(config)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as loop:
        try:
            yield loop
        finally:
            loop.kill()


def _address(loop: subprocess.Popen[str]) -> str:
    """Waits until the page is served."""
    assert loop.stdout is not None
    said = []
    for line in loop.stdout:
        said.append(line)
        if line.startswith(OPENS):
            return line.removeprefix(OPENS).strip()
    raise AssertionError("".join(said))


def _rank_shortest_first(tab: Tab, tasks: int) -> None:
    for _ in range(tasks):
        lengths = [len(text) for text in tab.texts()]
        tab.rank(*(1 + sum(other < length for other in lengths) for length in lengths))
        tab.save()


def test_two_rounds_are_ranked_in_a_browser_and_a_killed_loop_goes_on(
    browser: Any, trained: Path, files: Files, tmp_path: Path
) -> None:
    people = {"port": 0, "overlap": {"share": 0.0, "repeated": 0.0}}
    options = asdict(loop_options(tmp_path, files, trained / "sft", labeler="people")) | {"people": people}
    for unset in [name for name, value in options.items() if value is None]:
        del options[unset]
    del options["prompts"]["fields"]
    config = tmp_path / "loop.yaml"
    config.write_text(yaml.safe_dump(options))
    with _iterating(config) as loop:
        tab = Tab(browser, _address(loop), "Ada")
        _rank_shortest_first(tab, 3)
        loop.send_signal(signal.SIGKILL)
        tab.context.close()
    with _iterating(config) as loop:
        tab = Tab(browser, _address(loop), "Ada")
        assert "3 by you" in tab.page.inner_text("#progress")
        _rank_shortest_first(tab, 5)
        tab.page.wait_for_selector("#nothing:not([hidden])")
        tab.context.close()
        tab = Tab(browser, _address(loop), "Ben")  # the page of the second round, after a training
        _rank_shortest_first(tab, 8)
        tab.context.close()
        assert loop.stdout is not None
        said = loop.stdout.read()
        assert loop.wait() == 0, said
    assert len(json.loads((tmp_path / "loop/rounds.json").read_text())["rounds"]) == 2
    for number, labeler in enumerate(("Ada", "Ben")):
        folder = tmp_path / f"loop/round-{number}/comparisons"
        rows = [*read(folder / "train.jsonl"), *read(folder / "held_out.jsonl")]
        assert len(rows) == 8 and {row["labeler"] for row in rows} == {labeler}
        for row in rows:
            by_length = sorted(set(map(len, row["responses"])))
            assert [sorted(set(row["ranks"])).index(rank) for rank in row["ranks"]] == [
                by_length.index(len(text)) for text in row["responses"]
            ]
