"""Scores by Python functions, and functions that return something else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lit_instruct.errors import UserError
from lit_instruct.rollouts.reward_functions import function_scorer, scoring_function

HERE = "tests.lit_instruct.rollouts.broken_functions"
PAIRS = [("prompt", "first"), ("prompt", "second"), ("prompt", "third")]


def test_scores_are_floats() -> None:
    score = scoring_function(f"{HERE}.length", "--labeler")
    assert score([("a", "bb"), ("a", "c")]) == [2.0, 1.0]
    assert all(isinstance(one, float) for one in score(PAIRS))
    assert score([]) == []


def test_a_reward_function_reads_the_last_user_message() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert function_scorer(f"{HERE}.prompt_length")([messages, "Hi"], ["a", "b"]) == [5.0, 2.0]


@pytest.mark.parametrize("option", ["--model.reward.function", "--labeler"])
@pytest.mark.parametrize(
    "path", [f"{HERE}.absent", "no_such_package.module.function", "function", "", "tests..broken", "os.path."]
)
def test_a_wrong_import_path_names_the_option(path: str, option: str) -> None:
    with pytest.raises(UserError, match=f"^{option} {path}: cannot import it"):
        scoring_function(path, option)


@pytest.mark.parametrize("wrong", ["absent", "NUMBER"])
def test_a_reward_function_is_not_called_a_labeler(wrong: str) -> None:
    with pytest.raises(UserError, match=f"^--model.reward.function {HERE}.{wrong}: ") as caught:
        function_scorer(f"{HERE}.{wrong}")
    assert "labeler" not in str(caught.value)


def test_what_is_not_a_function() -> None:
    with pytest.raises(UserError, match=f"^--labeler {HERE}.NUMBER: it is not callable"):
        scoring_function(f"{HERE}.NUMBER", "--labeler")


def test_a_module_with_a_syntax_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_with_a_typo.py").write_text("def score(pairs:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="--labeler module_with_a_typo.score: cannot import it"):
        scoring_function("module_with_a_typo.score", "--labeler")
    assert "module_with_a_typo" not in sys.modules


def test_a_row_that_breaks_a_function_is_named() -> None:
    pairs = [("say one", "first"), ("say two", "a zero"), ("say three", "third")]
    with pytest.raises(UserError, match=r"ZeroDivisionError: .* \(row 1: prompt 'say two', response 'a zero'\); fix"):
        scoring_function(f"{HERE}.not_on_zero", "--labeler")(pairs)


def test_a_function_that_breaks_on_no_single_row() -> None:
    with pytest.raises(UserError, match="it raised MemoryError: too many; fix"):
        scoring_function(f"{HERE}.one_at_a_time", "--labeler")(PAIRS)


def test_numbers_that_are_not_finite_may_be_allowed() -> None:
    assert scoring_function(f"{HERE}.infinite", "--labeler", finite=False)([("a", "b")]) == [float("inf")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_few", "it returned 2 scores for 3 pairs"),
        ("not_a_number", r"it returned nan for row 1 \('second'\)"),
        ("infinite", r"it returned inf for row 0 \('first'\)"),
        ("raises", "it raised KeyError: 'missing'"),
        ("nothing", "it raised TypeError"),
        ("words", "it raised ValueError.*good"),
    ],
)
def test_functions_that_return_something_else_are_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^--model.reward.function {HERE}.{name}: {message}"):
        function_scorer(f"{HERE}.{name}")(*zip(*PAIRS, strict=True))
