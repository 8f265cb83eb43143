"""expected.yaml: what is read from it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_instruct.commands.expected import Range, figure_of, place_of, read_expected
from lit_instruct.errors import UserError


def test_ranges_are_read(tmp_path: Path) -> None:
    (tmp_path / "expected.yaml").write_text("rm:\n  val/pair_accuracy: [0.68, 1]\neval:\n  kl.ppo.mean: [0, 7]\n")
    found = read_expected(tmp_path)
    assert found == {"rm": {"val/pair_accuracy": Range(0.68, 1)}, "eval": {"kl.ppo.mean": Range(0, 7)}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no run of this recipe has been measured, so no figures are expected"),
        ("rm: [", "damaged"),
        ("- rm\n", "damaged (no names with values)"),
        ("", "damaged (no names with values)"),
        ("rmm:\n  val/loss: [0, 1]\n", "rmm is no stage; the stages are sft, rm, ppo, eval"),
        ("rm: 3\n", "rm: give figures with their ranges"),
        ("rm: {}\n", "there are no figures in it"),
        ("rm:\n  val/loss: 3\n", "rm: val/loss: give two numbers"),
        ("rm:\n  val/loss: [0, high]\n", "rm: val/loss: give two numbers"),
        ("rm:\n  val/loss: [2, 1]\n", "rm: val/loss: 2 is not below 1; give the lower end first"),
        ("rm:\n  val/loss: [.nan, 1]\n", "rm: val/loss: nan is not below 1"),
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "expected.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_expected(tmp_path)
    told = str(caught.value)
    assert told.startswith(f"{tmp_path / 'expected.yaml'}: ") and message in told and "\n" not in told


def test_a_figure_is_compared_as_it_is_printed() -> None:
    value = figure_of({"metrics": {"val/pair_accuracy": 0.80049}}, "rm", "val/pair_accuracy")
    assert value == 0.8 and place_of(value, Range(0.7, 0.8)) == "as expected"
    assert place_of(0.801, Range(0.7, 0.8)) == "above" and place_of(0.699, Range(0.7, 0.8)) == "below"
    assert place_of(0.7, Range(0.7, 0.8)) == "as expected"


def test_a_figure_of_a_report_is_found_by_its_path() -> None:
    report = {"labeler": {"ppo_minus_sft": {"mean": 0.3}, "sft": None}, "prompts": "many"}
    assert figure_of(report, "eval", "labeler.ppo_minus_sft.mean") == 0.3
    missing = ("labeler.sft.mean", "labeler.base.mean", "kl.ppo.mean", "prompts", "labeler")
    assert [figure_of(report, "eval", name) for name in missing] == [None] * 5
