"""Rewards by Python functions, and functions that return something else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lit_instruct.errors import UserError
from lit_instruct.rollouts.reward_functions import label, load_labeler
from tests.lit_instruct.rollouts import broken_labelers

HERE = "tests.lit_instruct.rollouts.broken_labelers"


def test_load_labeler() -> None:
    assert load_labeler(f"{HERE}.length") is broken_labelers.length


@pytest.mark.parametrize(
    "path", [f"{HERE}.absent", "no_such_package.module.function", "function", "", "tests..broken", "os.path."]
)
def test_wrong_import_path(path: str) -> None:
    with pytest.raises(UserError, match=f"labeler {path}: cannot import it"):
        load_labeler(path)


def test_labeler_that_is_no_function() -> None:
    with pytest.raises(UserError, match="NUMBER: it is not callable"):
        load_labeler(f"{HERE}.NUMBER")


def test_labeler_module_with_a_typo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labeler_with_a_typo.py").write_text("def score(pairs:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="labeler labeler_with_a_typo.score: cannot import it"):
        load_labeler("labeler_with_a_typo.score")
    assert "labeler_with_a_typo" not in sys.modules


def test_label_returns_floats() -> None:
    scores = label(broken_labelers.length, [("a", "bb"), ("a", "c")])
    assert scores == [2.0, 1.0]
    assert all(isinstance(score, float) for score in scores)
    assert label(broken_labelers.length, []) == []


def test_a_row_that_breaks_a_labeler_is_named() -> None:
    pairs = [("say one", "first"), ("say two", "a zero"), ("say three", "third")]

    def length(pairs: list[tuple[str, str]]) -> list[float]:
        return [1 / (response != "a zero") for _, response in pairs]

    with pytest.raises(UserError, match=r"ZeroDivisionError: .* \(row 1: prompt 'say two', response 'a zero'\); mend"):
        label(length, pairs)


def test_a_labeler_that_breaks_on_no_row_alone() -> None:
    def only_one(pairs: list[tuple[str, str]]) -> list[float]:
        if len(pairs) > 1:
            raise MemoryError("too many")
        return [0.0]

    with pytest.raises(UserError, match="it raised MemoryError: too many; mend"):
        label(only_one, [("a", "b"), ("c", "d")])


def test_numbers_that_are_not_finite_may_be_asked_for() -> None:
    scores = label(broken_labelers.infinite, [("a", "b")], finite=False)
    assert scores == [float("inf")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_few", "too_few: it returned 2 scores for 3 pairs"),
        ("not_a_number", r"not_a_number: it returned nan for row 1 \('second'\)"),
        ("infinite", r"infinite: it returned inf for row 0 \('first'\)"),
        ("raises", "raises: it raised KeyError: 'missing'"),
        ("nothing", "nothing: it raised TypeError"),
        ("words", "words: it raised ValueError.*good"),
    ],
)
def test_broken_labelers_are_named(name: str, message: str) -> None:
    pairs = [("prompt", "first"), ("prompt", "second"), ("prompt", "third")]
    with pytest.raises(UserError, match=message):
        label(getattr(broken_labelers, name), pairs, name)
