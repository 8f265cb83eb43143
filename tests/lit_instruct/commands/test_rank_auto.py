"""`lit-instruct rank auto`: rows ranked by a judge, that the reward stage reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_modules.rows import RankedComparison, read_rows
from lit_instruct.cli import main
from lit_instruct.judging import client
from tests.lit_instruct.judging.endpoint import Endpoint, Reply, endpoint, judge_file, longer

KEY = "sk-never-shown-77"
LENGTH = "tests.lit_instruct.rollouts.broken_functions.length"
ROWS: list[dict[str, Any]] = [
    {"prompt": "one", "responses": ["a", "bbb", "cc", "bbb"], "use_case": "chat", "scores": [1, 2, 3, 4]},
    {"prompt": [{"role": "user", "content": "two"}], "responses": ["long", "no", "yes"]},
    {"prompt": "three", "responses": ["same", "same"]},
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)
    with endpoint(longer) as running:
        yield running


def _words(folder: Path, labeler: str, *more: str) -> list[str]:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return [
        *("rank", "auto", f"--labeler={labeler}", f"--data.path={rows}", f"--out={folder / 'ranked.jsonl'}"),
        *more,
    ]


def test_a_judge_ranks_a_file(
    tmp_path: Path, server: Endpoint, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = judge_file(tmp_path, server.url, key="TEST_JUDGE_KEY")
    words = _words(tmp_path, f"judge:{file}")
    assert main(words) == 0
    rows = read_rows(tmp_path / "ranked.jsonl", RankedComparison)
    assert [(row.responses, row.ranks) for row in rows] == [
        (["a", "bbb", "cc"], [3, 1, 2]),
        (["long", "no", "yes"], [1, 3, 2]),
    ]
    assert [row.extra for row in rows] == [
        {"use_case": "chat", "labeler": f"judge:{file}"},
        {"labeler": f"judge:{file}"},
    ]
    report = json.loads((tmp_path / "ranked.labeler.json").read_text())
    agreement = {"share": 1.0, "ci_low": 1.0, "ci_high": 1.0, "pairs": 6, "tasks": 2}
    assert report["self_agreement"] == agreement and report["first_shown_wins"] == 0.5
    assert (report["calls"], report["questions"], report["from_cache"], report["decided"]) == (12, 12, 0, 12)
    assert main(words) == 0
    report = json.loads((tmp_path / "ranked.labeler.json").read_text())
    assert (report["calls"], report["from_cache"], len(server.asked)) == (0, 12, 12)
    shown = capfd.readouterr()
    assert "2 prompts ranked by judge:" in shown.out and "1 left out, with fewer than two different" in shown.out
    assert "it agrees with itself on 100.0 % of 6 pairs when their order is swapped (100.0 to 100.0 %)" in shown.out
    assert "tiny-judge: 12 questions, 12 of them answered from the cache; 0 calls" in shown.out
    assert server.keys == {f"Bearer {KEY}"} and KEY not in shown.out + shown.err
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def test_a_biased_judge_is_told_so(tmp_path: Path, server: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = lambda asked: "A"
    assert main(_words(tmp_path, f"judge:{judge_file(tmp_path, server.url)}")) == 0
    assert "agrees with itself on 0.0 % of 6 pairs" in (said := capsys.readouterr().out)
    assert "the response shown first wins 100.0 % of the decided comparisons" in said


def test_a_function_with_noise_ranks_too(tmp_path: Path) -> None:
    assert main(_words(tmp_path, LENGTH, "--noise.flip=1", "--noise.seed=4")) == 0
    rows = read_rows(tmp_path / "ranked.jsonl", RankedComparison)
    assert [row.ranks for row in rows] == [[1, 3, 2], [3, 1, 2]]
    assert {row.extra["labeler"] for row in rows} == {f"{LENGTH}, flip 1, seed 4"}
    assert not (tmp_path / "ranked.labeler.json").exists()


def test_a_judge_that_rates_gives_scores(tmp_path: Path, server: Endpoint) -> None:
    server.answer = lambda asked: str(len(asked.split("|")[1]))
    assert main(_words(tmp_path, f"judge:{judge_file(tmp_path, server.url, by='rate')}")) == 0
    rows = read_rows(tmp_path / "ranked.jsonl", RankedComparison)
    assert [row.extra["scores"] for row in rows] == [[1, 3, 2], [4, 2, 3]]
    assert [row.ranks for row in rows] == [[3, 1, 2], [1, 3, 2]]


@pytest.mark.parametrize(
    ("more", "answer", "sentence"),
    [
        ({"budget": 3}, longer, "the budget of 3 calls is used up; the answers so far are kept, and the same command"),
        ({}, lambda asked: "hm", "the judge's answer ends without a verdict ('hm'); correct the template"),
        ({}, lambda asked: Reply("no", 500), "answered 500: no, also after 2 retries"),
        ({"key": "NOT_SET_ANYWHERE"}, longer, "the environment variable that `key` names is not set"),
        ({"on_unusable": "leave_out"}, lambda asked: "hm", "the judge gave no usable answer on any prompt"),
    ],
)
def test_what_stops_a_judge_is_one_sentence_and_nothing_is_half_written(
    tmp_path: Path,
    server: Endpoint,
    capsys: pytest.CaptureFixture[str],
    more: dict[str, Any],
    answer: Any,
    sentence: str,
) -> None:
    server.answer = answer
    assert main(_words(tmp_path, f"judge:{judge_file(tmp_path, server.url, **more)}")) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1 and sentence in lines[0]
    assert not list(tmp_path.glob("ranked*"))


def test_nothing_to_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = _words(tmp_path, LENGTH)
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[2]) + "\n")
    assert main(words) == 2
    assert "rows.jsonl: no prompt with two different responses is in it to rank" in capsys.readouterr().err
    assert main([*words, f"--out={tmp_path / 'none' / 'ranked.jsonl'}"]) == 2
    assert "no such folder; make it first" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_judge_goes_on(tmp_path: Path, server: Endpoint) -> None:
    """Its answers are on the disk as they come: after a kill only those under way are asked again."""

    def slow(asked: str) -> str:
        time.sleep(0.3 if len(server.asked) > 4 else 0)
        return longer(asked)

    server.answer = slow
    words = _words(tmp_path, f"judge:{judge_file(tmp_path, server.url, concurrent=1)}")
    with subprocess.Popen([sys.executable, "-m", "lit_instruct.cli", *words]) as process:
        while len(server.asked) < 7:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "ranked.jsonl").exists()
    asked = len(server.asked)
    server.answer = longer
    assert main(words) == 0
    assert len(server.asked) - asked == 12 - (asked - 1)
    assert json.loads((tmp_path / "ranked.labeler.json").read_text())["from_cache"] == asked - 1
