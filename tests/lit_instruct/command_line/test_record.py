"""options.json says what the parsers say; help shows every option of them."""

from __future__ import annotations

import pytest

from lit_instruct.cli import main
from lit_instruct.command_line import stored
from lit_instruct.command_line.record import recorded
from lit_instruct.command_line.stored import FILE, as_text, stored_command
from lit_instruct.commands.plan import stage_parser


def test_the_stored_options_are_current() -> None:
    """After a change of an option: make options."""
    assert as_text(recorded()) == FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_help_shows_every_option(capsys: pytest.CaptureFixture[str], stage: str) -> None:
    parser = stage_parser(stage)
    parser.exit_on_error = False
    with pytest.raises(SystemExit):
        parser.parse_args(["fit", "--help"])
    theirs = {word for word in capsys.readouterr().out.split() if word.startswith("--") and word != "-->"}
    assert main([stage, "fit", "--help"]) == 0
    ours = {word for word in capsys.readouterr().out.split() if word.startswith("--")}
    assert len(theirs) > 90
    assert {name.strip("[].,;)") for name in theirs} - {name.strip("[].,;)") for name in ours} == set()
    assert f"--model.{'lora.r' if stage != 'rm' else 'lora.top_layers'}" in ours


def test_other_versions_of_the_libraries_have_no_stored_options(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stored_command("ppo fit") is not None
    monkeypatch.setattr(stored, "version", lambda _: "0.0")
    assert stored_command("ppo fit") is None


def test_changed_sources_have_no_stored_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "fingerprint", lambda _: "other")
    assert stored_command("chat") is None
