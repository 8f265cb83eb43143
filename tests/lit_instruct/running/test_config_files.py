"""Config files with a value where a group of options belongs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_instruct.cli import main
from lit_instruct.commands.plan import stage_options
from lit_instruct.errors import UserError


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
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_groups_and_values_in_their_places(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text("model:\n  lora: null\n  kl:\n    coef: 0.5\ndata:\n  fields: {prompt: question}\ntrainer: null\n")
    options = stage_options("ppo", ["--config", str(file), "--data.path=x"])
    assert options["model.kl.coef"] == 0.5
    assert options["data.fields.prompt"] == "question"
