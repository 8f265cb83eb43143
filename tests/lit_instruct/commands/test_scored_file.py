"""A file of scores that an earlier run began is continued byte for byte, or refused."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.commands.score import score_file
from lit_instruct.errors import UserError
from lit_instruct.rollouts.text_reward import TextReward
from tests.lit_instruct.commands.scoring import lines, options
from tests.lit_instruct.stages.helpers import demonstrations, run, write_rows


def test_a_cut_off_file_is_continued_to_the_byte(demo: Path, tmp_path: Path, small_windows: None) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", demonstrations(10))
    out = score_file(options(demo, rows))
    whole = out.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 10
    # At the end of a window, inside one, inside a line and inside its score, at the very start, and not at all.
    for cut in (ends[3], ends[5], ends[5] + 9, ends[6] - 3, 7, 0, len(whole)):
        out.write_bytes(whole[:cut])
        assert score_file(options(demo, rows)).read_bytes() == whole


def test_only_what_is_missing_is_scored(
    demo: Path, tmp_path: Path, small_windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", demonstrations(14))
    out = score_file(options(demo, rows))
    whole = out.read_bytes().splitlines(keepends=True)
    scored: list[int] = []
    original = TextReward.score_ids

    def counting(self: TextReward, sequences: Any, *more: Any) -> list[list[float]]:
        scored.append(len(sequences))
        return original(self, sequences, *more)

    monkeypatch.setattr(TextReward, "score_ids", counting)
    out.write_bytes(b"".join(whole[:9]))
    score_file(options(demo, rows))
    assert scored == [4, 2]  # the window of the ninth row again, and the last one


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        (b"my diary\nmonday: rain\n", "line 1: this is not .*rows.jsonl:1 with its reward; the file belongs to other"),
        (b"a note without an end", "line 1: this is not the start of the next row"),
        (b'{"prompt": "a"}\n' * 9, "line 6: the data has only 5 rows"),
    ],
    ids=["lines", "no end", "more lines"],
)
def test_a_file_of_something_else_is_left_alone(demo: Path, tmp_path: Path, earlier: bytes, message: str) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", demonstrations(5))
    out = tmp_path / "scored.jsonl"
    out.write_bytes(earlier)
    with pytest.raises(UserError, match=f"--out=.*scored.jsonl: {message}"):
        score_file(options(demo, rows))
    assert out.read_bytes() == earlier


def test_changed_data_and_another_model_are_refused(demo: Path, tmp_path: Path, tiny_model: Path) -> None:
    given = demonstrations(5)
    rows = write_rows(tmp_path / "rows.jsonl", given)
    out = score_file(options(demo, rows))
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:3]))
    before = out.read_bytes()
    write_rows(rows, [*given[:2], {"prompt": "new", "response": "row"}, *given[3:]])
    with pytest.raises(UserError, match=r"line 3: this is not .*rows.jsonl:3 with its reward"):
        score_file(options(demo, rows))
    write_rows(rows, given)
    with pytest.raises(UserError, match="line 1: this is not .*rows.jsonl:1 with its points"):
        score_file(options(demo, rows, field="points"))
    edited = before.replace(b'"reward": ', b'"reward": 9', 1)
    out.write_bytes(edited)
    with pytest.raises(UserError, match=r"line 1: .*rm scores this .*, not .*; the file belongs to another model"):
        score_file(options(demo, rows))
    assert out.read_bytes() == edited


def test_more_data_continue_the_file(demo: Path, tmp_path: Path) -> None:
    given = demonstrations(8)
    rows = write_rows(tmp_path / "rows.jsonl", given[:5])
    first = score_file(options(demo, rows)).read_bytes()
    write_rows(rows, given)
    out = score_file(options(demo, rows))
    assert out.read_bytes().startswith(first)
    assert len(lines(out)) == 8


def test_an_interrupt_keeps_what_is_done(
    demo: Path,
    tmp_path: Path,
    small_windows: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", demonstrations(10))
    whole = score_file(options(demo, rows, out=str(tmp_path / "whole.jsonl"))).read_bytes()
    original, left = TextReward.score_ids, [2]

    def pressed(self: TextReward, *given: Any) -> list[list[float]]:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(self, *given)

    words = ["rm", "score", "--run", demo, "--data.path", rows, "--out", tmp_path / "scored.jsonl"]
    words += ["--dtype", "float32"]
    with monkeypatch.context() as patch:
        patch.setattr(TextReward, "score_ids", pressed)
        assert run(*words) == 130
    assert "run the same command to continue" in capsys.readouterr().out
    assert len(lines(tmp_path / "scored.jsonl")) == 8
    assert run(*words) == 0
    assert (tmp_path / "scored.jsonl").read_bytes() == whole


def test_a_disk_that_fills_up_is_one_sentence(demo: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{**demonstrations(1)[0], "note": "x" * 200_000}])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="scored.jsonl: cannot write here .*; choose another place with --out"):
            score_file(options(demo, rows))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
