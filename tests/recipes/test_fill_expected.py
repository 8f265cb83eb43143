"""Ranges follow from the measured spread by the rule that expected.yaml states, and the files are current."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_instruct.commands.expected import Range, read_expected
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
MEASURED = sorted({path.parents[1] for path in ROOT.glob("recipes/*/results/seed-*.json")})


@pytest.fixture(scope="module")
def filling() -> Any:
    return load_script(ROOT / "recipes" / "fill_expected.py")


def report(loss: float, accuracy: float, gain: float) -> dict[str, Any]:
    """A report with some of the figures."""
    return {
        "metrics": {"sft": {"val/loss": loss}},
        "reward_model": {"pair_accuracy": accuracy},
        "labeler": {"ppo_minus_sft": {"mean": gain}},
        "seconds": {"sft": 60, "rm": 60, "ppo": 60, "eval": 60},
        "machine": {"cpu_cores": 2, "architecture": "x86_64", "accelerator": None},
    }


def write(folder: Path, *reports: dict[str, Any]) -> None:
    (folder / "results").mkdir(exist_ok=True)
    for seed, own in enumerate(reports):
        (folder / "results" / f"seed-{seed}.json").write_text(json.dumps(own))


def test_a_range_is_four_standard_deviations_or_the_floor_within_limits(filling: Any, tmp_path: Path) -> None:
    write(tmp_path, report(1.18, 0.85, 0.2), report(1.18, 0.95, 0.3), report(1.18, 0.9, 0.4))
    (tmp_path / "expected.yaml").write_text(filling.expected_text(tmp_path))
    assert read_expected(tmp_path) == {
        "sft": {"val/loss": Range(1.08, 1.28)},  # its floor, 0.1
        "rm": {"val/pair_accuracy": Range(0.7, 1)},  # mean 0.9, deviation 0.05, at most 1
        "eval": {"labeler.ppo_minus_sft.mean": Range(0, 0.7)},  # mean 0.3, deviation 0.1, at least 0
    }


def test_one_seed_has_the_floors(filling: Any, tmp_path: Path) -> None:
    write(tmp_path, report(1.183, 0.75, 0.3))
    (tmp_path / "expected.yaml").write_text(filling.expected_text(tmp_path))
    assert read_expected(tmp_path)["sft"] == {"val/loss": Range(1.08, 1.29)}  # rounded outwards
    text = filling.readme_filled("a\n<!-- expected -->\nold\n<!-- end expected -->\nb\n", tmp_path)
    assert text.startswith("a\n<!-- expected -->\n| stage |") and text.endswith("<!-- end expected -->\nb\n")
    assert "| sft | validation loss | 1.08 to 1.29 | 1.183 |" in text
    assert "old" not in text and "4.0 to 4.0 minutes each, on 2 cores (x86_64)" in text


def test_a_figure_that_not_every_report_has_is_left_out(filling: Any, tmp_path: Path) -> None:
    other = report(1.2, 0.75, 0.3)
    del other["metrics"]
    write(tmp_path, report(1.2, 0.75, 0.3), other)
    assert "val/loss" not in filling.expected_text(tmp_path)


@pytest.mark.parametrize("recipe", MEASURED, ids=lambda path: path.name)
def test_the_files_are_those_of_the_results(filling: Any, recipe: Path) -> None:
    """After a change of recipes/*/results: python recipes/fill_expected.py."""
    assert (recipe / "expected.yaml").read_text(encoding="utf-8") == filling.expected_text(recipe)
    text = (recipe / "README.md").read_text(encoding="utf-8")
    assert filling.readme_filled(text, recipe) == text and "| expected |" in text


def test_a_recipe_without_results_is_named(filling: Any) -> None:
    with pytest.raises(SystemExit, match=r"paper: no recipes/paper/results/seed-\*.json"):
        filling.main(["paper"])
