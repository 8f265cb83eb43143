"""Every recipe parses against the real signatures, says how to launch it, and holds only what differs."""

from __future__ import annotations

import re
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from data_modules.formats.layout import detect
from data_modules.reading.readers import HUB_ID
from data_modules.rows import Demonstration, PromptRow, RankedComparison, check_format
from lit_instruct.commands.plan import stage_options
from lit_instruct.evaluation.options import EvalOptions
from lit_instruct.evaluation.references import reference_of
from tests.recipes.records import records
from tests.scripts import load_script

ROOT = Path(__file__).parent.parent
STAGES = ("sft", "rm", "ppo")
FILES = sorted(ROOT.glob("recipes/*/*.yaml"))
RECIPES = [path.relative_to(ROOT) for path in FILES if path.stem in (*STAGES, "eval")]
EVIDENCE = sorted(path.relative_to(ROOT) for path in ROOT.glob("recipes/evidence/*/*.yaml"))
"""Stages of findings."""


def eval_options(words: list[str]) -> dict[str, Any]:
    """The same for the evaluation."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(EvalOptions)
    return parser.parse_args(words).as_dict()


def options(path: Path, words: list[str]) -> dict[str, Any]:
    """Reads a recipe or nothing, by the name of its file."""
    return eval_options(words) if path.stem == "eval" else stage_options(path.stem, words)


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Option by dotted name."""
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in leaves(inner, f"{name}.{key}").items()}
    return {name[1:]: value}


def test_there_is_a_demo() -> None:
    assert {f"recipes/demo/{name}.yaml" for name in ("sft", "rm", "ppo")} <= {str(path) for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES + EVIDENCE, ids=str)
def test_a_recipe_says_on_what_and_how_to_run_it(path: Path) -> None:
    text = (ROOT / path).read_text()
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert text.startswith("#")
    opening = text.split("\n\n")[0].lower() + "\n".join(comments[:6]).lower()
    assert any(word in opening for word in ("cpu", "core", "gpu"))
    assert f"make {path.stem}" in opening or f"lit-instruct {path.stem}" in opening


@pytest.mark.parametrize("path", RECIPES + EVIDENCE, ids=str)
def test_a_recipe_parses_and_holds_only_what_differs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    given = leaves(yaml.safe_load(path.read_text()))
    required = [] if path.stem == "eval" else ["--data.path=x"]
    defaults = leaves(options(path, required))
    data = required if "data.path" not in given else []  # findings give their own
    parsed = leaves(options(path, ["--config", str(path), *data]))
    repeated = [name for name in given if name in defaults and defaults[name] == parsed[name]]
    assert not repeated
    files = {name: value for name, value in given.items() if name.endswith(("path", "prompts")) and value}
    local = [str(value) for value in files.values() if not HUB_ID.fullmatch(str(value))]
    made = ("runs/evidence/data/", "runs/data/")  # findings, and a recipe's make_data.py, write these
    missing = [value for value in local if not (ROOT / value).exists() and not value.startswith(made)]
    assert not missing


HELD_OUT = {"HuggingFaceH4/ultrachat_200k": "test_gen", "trl-lib/tldr": "test"}
"""Split of a dataset that no stage trains on."""
OTHERS = sorted(path.parent for path in RECIPES if path.stem == "eval" and path.parent.name not in ("demo", "imdb"))


@pytest.mark.parametrize("folder", OTHERS, ids=str)
def test_a_recipe_is_evaluated_on_its_own_data_by_judges_that_see_the_prompt(folder: Path) -> None:
    given, ppo = (yaml.safe_load((ROOT / folder / f"{name}.yaml").read_text()) for name in ("eval", "ppo"))
    prompts, trained = HUB_ID.fullmatch(given["prompts"]), HUB_ID.fullmatch(ppo["data"]["path"])
    assert prompts is not None and trained is not None
    assert (prompts["name"], prompts["revision"]) == (trained["name"], trained["revision"])
    used = [yaml.safe_load((ROOT / folder / f"{stage}.yaml").read_text())["data"]["path"] for stage in STAGES]
    assert given["prompts"] == f"{prompts['name']}@{prompts['revision']}:{HELD_OUT[prompts['name']]}"
    assert given["prompts"] not in used
    # by default the judges are the run's reward model and the dataset's own response to the prompt
    assert "labeler" not in given and "second_labeler" not in given and "max_new_tokens" not in given
    row = PromptRow.from_fields(made(prompts["name"]))
    assert reference_of(row.prompt, row.columns()) is not None


def made(dataset: str) -> dict[str, Any]:
    """The fields of a row of prompts, from a record in the dataset's layout."""
    (record,) = records(dataset, 1)
    (layout,) = detect([record], PromptRow.layouts)
    (fields,) = layout.rows(record)
    return fields


def test_an_unknown_option_in_a_recipe_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "sft.yaml"
    recipe.write_text("model:\n  learning_rat: 1\n")
    with pytest.raises(ArgumentError, match="learning_rat"):
        stage_options("sft", ["--config", str(recipe), "--data.path=x"])


CATALOGUE = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8").split("## Public data")[1]
PUBLIC = re.findall(r"\| (sft|rm|ppo) \| `([^`]+)` \| ([\w-]+) \|", CATALOGUE)


def test_the_catalogue_names_public_data_for_every_stage() -> None:
    assert {stage for stage, _, _ in PUBLIC} == {"sft", "rm", "ppo"}
    assert len(PUBLIC) >= 12


@pytest.mark.parametrize(("stage", "path", "layout"), PUBLIC)
def test_a_public_dataset_is_written_as_our_options_take_it(stage: str, path: str, layout: str) -> None:
    rows = {"sft": Demonstration, "rm": RankedComparison, "ppo": PromptRow}[stage]
    check_format(layout, rows)  # raises where the layout is none of this stage's
    assert HUB_ID.fullmatch(path)
    chosen = options(Path(f"recipes/demo/{stage}.yaml"), [f"--data.path={path}", f"--data.format={layout}"])
    assert (chosen["data.path"], chosen["data.format"]) == (path, layout)


def test_the_table_of_results_is_that_of_the_reports() -> None:
    module: Any = load_script(ROOT / "recipes" / "fill_table.py")
    text = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    assert module.filled(text) == text
    assert "**PPO minus SFT**" in text
    assert module.filled(text.replace("| **PPO minus SFT** | ", "| **PPO minus SFT** | 9")) == text
