"""The demo's config of rounds, also in a folder of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonargparse import auto_cli, set_parsing_settings

from lit_instruct.cli import main
from lit_instruct.iterating.options import IterateOptions

ROOT = Path(__file__).parents[3]


def parsed(config: Path) -> IterateOptions:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    found = auto_cli(IterateOptions, args=["--config", str(config)], as_positional=False)
    assert isinstance(found, IterateOptions)
    return found


def test_the_demo_names_files_that_there_are() -> None:
    options = parsed(ROOT / "recipes/demo/iterate.yaml")
    stages = options.stages
    assert all((ROOT / path).is_file() for path in (options.prompts.path, stages.rm, stages.ppo, stages.eval))
    assert options.sft == "runs/demo/sft"


def test_a_folder_of_ones_own_has_it_with_its_own_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["init", str(tmp_path / "mine")]) == 0
    monkeypatch.chdir(tmp_path / "mine")
    options = parsed(Path("iterate.yaml"))
    assert (options.sft, options.prompts.path) == ("runs/mine/sft", "data/prompts_train.jsonl")
    assert all(Path(path).is_file() for path in (options.stages.rm, options.stages.ppo, options.stages.eval))
