"""Config files with a value where a group of options belongs."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonargparse import Namespace

from lit_instruct.cli import main
from lit_instruct.commands.plan import stage_options
from lit_instruct.errors import UserError
from lit_instruct.running.config_files import expand_homes


@pytest.mark.parametrize(
    ("text", "group", "value"),
    [
        ("model: 1", "model", "1"),
        ("model: true", "model", "True"),
        ("model: [1]", "model", "[1]"),
        ("data: 1", "data", "1"),
        ("trainer: 0.5", "trainer", "0.5"),
        ("model:\n  kl: 3", "model.kl", "3"),
        ("data:\n  hygiene: 3", "data.hygiene", "3"),
    ],
)
def test_a_value_where_a_group_belongs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, group: str, value: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text + "\n")
    message = (
        f"--config={file}: {group} is {value}, but must be a group of options; write each below it, as name: value"
    )
    with pytest.raises(UserError) as caught:
        stage_options("ppo", ["--config", str(file), "--data.path=x"])
    assert str(caught.value) == message
    if text == "model: 1":
        words = ["ppo", "fit", "--config", str(file), "--data.path=x", "--run", str(tmp_path / "run")]
        assert main(words) == 2
        assert f"{file}:1: model must be a group of options" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_groups_and_values_in_their_places(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text("model:\n  lora: null\n  kl:\n    coef: 0.5\ndata:\n  fields: {prompt: question}\ntrainer: null\n")
    options = stage_options("ppo", ["--config", str(file), "--data.path=x"])
    assert options["model.kl.coef"] == 0.5
    assert options["data.fields.prompt"] == "question"


def test_home_folders_are_found_everywhere_but_in_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given = {
        "config": ["~/sft.yaml"],
        "run": "~/run",
        "model": Namespace(base="~/base", prompt=Namespace(system="~ is home"), lora=None),
        "data": Namespace(path="~/a.jsonl@3, ~/b.jsonl@1,org/name:train@1", limit=3, fields={"prompt": "~"}),
        "trainer": Namespace(logger=[Namespace(init_args=Namespace(save_dir="~/logs"))], plugins={"dir": "~/x"}),
    }
    options = Namespace(**given)
    expand_homes(options)
    assert options.run == "/home/me/run" and options.config == ["~/sft.yaml"]
    assert (options.model.base, options.model.prompt.system) == ("/home/me/base", "~ is home")
    assert options.data.path == "/home/me/a.jsonl@3,/home/me/b.jsonl@1,org/name:train@1"
    assert options.trainer.logger[0].init_args.save_dir == "/home/me/logs"
    assert options.trainer.plugins == {"dir": "/home/me/x"}
