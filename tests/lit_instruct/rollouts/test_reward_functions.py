"""Scores by Python functions, and functions that return something else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_modules.rows import PromptRow
from lit_instruct.errors import UserError
from lit_instruct.rollouts.reward_functions import function_scorer

HERE = "tests.lit_instruct.rollouts.broken_functions"
PROMPTS, RESPONSES = ["one", "two", "three"], ["first", "second", "third"]
ROWS = [{"answer": "1"}, {"answer": "2", "id": 7}, {"answer": "3"}]
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def default_dtype() -> Iterator[None]:
    """Functions here change it."""
    yield
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def scores(function: str, **options: Any) -> list[float]:
    return function_scorer(f"{HERE}.{function}", **options)(PROMPTS, RESPONSES, ROWS)


def refusal(function: str, option: str = "--labeler") -> str:
    with pytest.raises(UserError) as caught:
        scores(function, option=option)
    text = str(caught.value)
    assert text.startswith(f"{option} {HERE}.{function}: ") and "\n" not in text
    return text.removeprefix(f"{option} {HERE}.{function}: ")


def test_scores_are_floats() -> None:
    score = function_scorer(f"{HERE}.length")
    assert score(PROMPTS[:2], ["bb", "c"], [{}, {}]) == [2.0, 1.0]
    assert all(isinstance(one, float) for one in score(PROMPTS, RESPONSES, ROWS))
    assert score([], [], []) == []


@pytest.mark.parametrize("function", ["prompt_length", "prompt_length_of_rows"])
def test_a_function_reads_the_last_user_message(function: str) -> None:
    assert function_scorer(f"{HERE}.{function}")([MESSAGES, "Hi"], ["a", "b"], [{}, {}]) == [5.0, 2.0]


@pytest.mark.parametrize("function", ["of_rows", "of_rows_by_other_names", "OfRows", "trl", "trl_of_all_columns"])
def test_a_function_gets_the_columns_of_the_rows(function: str) -> None:
    answers = ["1", "first", "x 3"]
    assert function_scorer(f"{HERE}.{function}")(PROMPTS, answers, ROWS) == [1.0, 0.0, 1.0]


def test_a_row_shows_what_the_layout_did_not_use() -> None:
    row = PromptRow.from_fields({"prompt": "p", "user": "u1", "answer": "4", "id": 7})
    assert row.columns() == {"answer": "4", "id": 7, "user": "u1"}
    assert PromptRow("p").columns() == {}


def test_the_forms_of_trl() -> None:
    """Prompts and completions as in TRL: messages stay messages; a column that a row lacks is None."""
    found = function_scorer(f"{HERE}.record")([MESSAGES, "Hi"], ["a", "b"], [{"answer": 1}, {"id": 2}])
    assert found == [0.0, 0.0]
    assert sys.modules[HERE].RECORDED == {
        "prompts": [MESSAGES, "Hi"],
        "completions": [[{"role": "assistant", "content": "a"}], "b"],
        "answer": [1, None],
        "id": [None, 2],
    }


def test_a_column_that_the_data_lack() -> None:
    assert refusal("trl_of_absent_column") == "it takes solution, and the data have no such column (others: answer, id)"
    assert refusal("of_absent_column") == (
        "it raised KeyError: 'solution' (row 0: prompt 'one', response 'first'); fix the function"
    )


@pytest.mark.parametrize("function", ["two_arguments", "four_arguments", "no_argument", "asynchronous"])
def test_other_arguments(function: str) -> None:
    text = refusal(function)
    assert text.startswith("it is asynchronous; " if function == "asynchronous" else "it takes (")
    assert text.endswith(
        "give function(pairs), function(prompts, responses, rows) or, as in TRL, function(prompts, completions, "
        "**columns)"
    )


@pytest.mark.parametrize("option", ["--model.reward.function", "--labeler"])
@pytest.mark.parametrize(
    "path", [f"{HERE}.absent", "no_such_package.module.function", "function", "", "tests..broken", "os.path."]
)
def test_a_wrong_import_path_names_the_option(path: str, option: str) -> None:
    with pytest.raises(UserError, match=f"^{option} {path}: cannot import it"):
        function_scorer(path, option=option)


@pytest.mark.parametrize("wrong", ["absent", "NUMBER"])
def test_a_reward_function_is_not_called_a_labeler(wrong: str) -> None:
    assert "labeler" not in refusal(wrong, "--model.reward.function")


def test_what_is_not_a_function() -> None:
    assert refusal("NUMBER").startswith("it is not callable; give function(pairs), ")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def score(pairs:\n", "cannot import it ('"),
        ("import sys\nsys.exit('no licence')\n", "cannot import it (no licence); give package.module"),
        (
            "import torch\ntorch.set_default_dtype(torch.float64)\ndef score(pairs): return [0.0]\n",
            "it changed torch's default dtype from torch.float32 to torch.float64; set it back in the function",
        ),
    ],
)
def test_a_module_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    (tmp_path / "module_with_a_fault.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as caught:
        function_scorer("module_with_a_fault.score", option="--labeler")
    sys.modules.pop("module_with_a_fault", None)
    assert str(caught.value).startswith(f"--labeler module_with_a_fault.score: {reason}")


def test_a_row_that_breaks_a_function_is_named() -> None:
    with pytest.raises(UserError, match=r"ZeroDivisionError: .* \(row 1: prompt 'two', response 'a zero'\); fix"):
        function_scorer(f"{HERE}.not_on_zero")(PROMPTS, ["first", "a zero", "third"], ROWS)


def test_a_function_that_breaks_on_no_single_row() -> None:
    assert refusal("one_at_a_time") == "it raised MemoryError: too many; fix the function"


def test_numbers_that_are_not_finite_may_be_allowed() -> None:
    assert scores("infinite", finite=False) == [float("inf")] * 3


def test_a_function_may_change_its_arguments() -> None:
    assert scores("empties_the_list") == [5.0, 6.0, 5.0]
    assert scores("changes_rows") == [0.0, 0.0, 0.0]
    assert ROWS == [{"answer": "1"}, {"answer": "2", "id": 7}, {"answer": "3"}]


@pytest.mark.parametrize(
    "function", ["booleans", "tensor", "array", "generator", "halves", "turns_gradients_off", "draws"]
)
def test_what_holds_numbers_is_a_list_of_scores(function: str) -> None:
    assert scores(function) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_few", "it returned 2 scores for 3 responses; return one for each"),
        ("not_a_number", "it returned nan for row 1 ('second'); return finite numbers"),
        ("infinite", "it returned inf for row 0 ('first'); return finite numbers"),
        ("raises", "it raised KeyError: 'missing' (row 0: prompt 'one', response 'first'); fix the function"),
        ("leaves", "it raised SystemExit: 1 (row 0: prompt 'one', response 'first'); fix the function"),
        ("raises_lines", "it raised ValueError: a b (row 0: prompt 'one', response 'first'); fix the function"),
        ("nothing", "it returned None; return a list of one number per response"),
        ("a_number", "it returned 1.5; return a list of one number per response"),
        ("a_dict", "it returned {0: 1.0, 1: 2.0, 2: 3.0}; return a list of one number per response"),
        ("a_text", "it returned '123'; return a list of one number per response"),
        ("a_set", "it returned {1}; return a list of one number per response"),
        ("words", "it returned 'good' for row 0 ('first'); return numbers"),
        ("digits", "it returned '0.5' for row 0 ('first'); return numbers"),
        ("dicts", "it returned {'score': 1.0} for row 0 ('first'); return numbers"),
        ("nones", "it returned None for row 1 ('second'); return numbers"),
        ("nested", "it returned [1.0, 2.0] for row 0 ('first'); return numbers"),
        ("complexes", "it returned 1j for row 0 ('first'); return numbers"),
        (
            "is_cancelled",
            "it raised CancelledError: by itself (row 0: prompt 'one', response 'first'); fix the function",
        ),
        (
            "changes_dtype_and_raises",
            "it raised ValueError: after a change (row 0: prompt 'one', response 'first'); fix the function",
        ),
        (
            "changes_precision",
            "it changed torch's matmul precision from highest to medium; set it back in the function",
        ),
        ("too_large", f"it returned 1{'0' * 56}... for row 0 ('first'); return numbers"),
        (
            "changes_dtype",
            "it changed torch's default dtype from torch.float32 to torch.float64; set it back in the function",
        ),
    ],
)
def test_functions_that_return_something_else_are_named(name: str, message: str) -> None:
    assert refusal(name, "--model.reward.function") == message


def test_a_function_leaves_random_state_and_threads_alone() -> None:
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    scores("draws")
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_a_function_that_leaves_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        refusal("changes_folder")
        == f"it changed the working directory from {tmp_path} to /; set it back in the function"
    )
    assert Path.cwd() == tmp_path


def test_ctrl_c_in_a_function_is_no_fault_of_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        scores("interrupts")
