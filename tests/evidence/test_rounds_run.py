"""The whole measurement of rounds against one long run, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from jsonargparse import auto_cli, set_parsing_settings

from evidence import rounds
from lit_instruct.iterating.loop import iterate
from lit_instruct.iterating.options import IterateOptions
from tests.lit_instruct.iterating.helpers import LABELER, Commands, configs
from tests.lit_instruct.stages.helpers import Files, fit


@pytest.mark.slow
def test_it_trains_both_and_compares_them(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    files, run = Files(tmp_path / "data"), tmp_path / "runs/seed-0"
    assert fit("sft", run, files, f"--model.base={tiny_model}") == 0
    monkeypatch.setattr(rounds, "run_stage", lambda *_: 0.0)
    monkeypatch.setattr(rounds, "LAST_PROMPTS", 6)
    commands = Commands()

    def run_command(words: Sequence[str], log: Path) -> None:
        if words[0] == "iterate":  # with its steps in this process
            set_parsing_settings(docstring_parse_attribute_docstrings=True)
            iterate(auto_cli(IterateOptions, args=[*words[1:]], as_positional=False), commands)
        else:
            commands(words, log)

    monkeypatch.setattr(rounds, "run_command", run_command)
    stages = configs(tmp_path, files)
    words = ["--seeds", "0", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path), "--rounds=2", "--k=3"]
    words += [f"--stages.{name}={getattr(stages, name)}" for name in ("rm", "ppo", "eval")]
    words += [f"--stages.{name}_options={json.dumps(getattr(stages, f'{name}_options'))}" for name in ("rm", "eval")]
    words += [f"--stages.ppo_options={json.dumps([*stages.ppo_options, '--model.iterations=2'])}"]
    words += ["--prompts.per_round=8", "--prompts.held_out=0.5", "--sampling.max_new_tokens=6"]
    words += [f"--labeler={LABELER}"]
    assert rounds.main(words) == 0
    found = json.loads((tmp_path / "rounds-0.json").read_text())
    assert found["curves"]["rounds"]["iteration"] == [1, 2] and found["curves"]["single"]["iteration"] == [1, 2, 3, 4]
    assert [len(row) for row in found["matrix"]] == [2, 2]
    assert found["single"]["comparisons"] == {"train": 8, "held_out": 8}
    assert set(found["last_policy"]) == {"first", "last", "last_minus_first"} and found["verdict"]
    assert "Dashed" in (run / "rounds/rounds.html").read_text()
    given = len(commands.given)
    assert rounds.main(words) == 0
    assert len(commands.given) == given
